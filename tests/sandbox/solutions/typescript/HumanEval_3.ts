  let balance: number = 0;
  for (const change of operations) {
    balance += change;
    if (balance < 0) return true;
  }
  return false;
}
