  let balance = 0;
  return operations.some((change) => (balance += change) < 0);
}
