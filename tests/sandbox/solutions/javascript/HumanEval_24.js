  let divisor = n - 1;
  while (n % divisor !== 0) divisor--;
  return divisor;
}
