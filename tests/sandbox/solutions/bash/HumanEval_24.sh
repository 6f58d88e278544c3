    local divisor=$(($1 - 1))
    while (($1 % divisor)); do ((divisor--, 1)); done
    echo "$divisor"
