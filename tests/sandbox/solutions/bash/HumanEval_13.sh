    local a=$1 b=$2
    while ((b)); do
        local rest=$((a % b))
        a=$b b=$rest
    done
    echo "$a"
