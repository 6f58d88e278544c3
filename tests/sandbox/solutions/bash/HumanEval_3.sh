    local balance=0 change
    for change in $1; do
        ((balance += change, 1))
        if ((balance < 0)); then echo true; return; fi
    done
    echo false
