    local a=0 b=1 i
    for ((i = 0; i < $1; i++)); do
        local next=$((a + b))
        a=$b b=$next
    done
    echo "$a"
