    local x kept=()
    for x in $1; do
        if ((x > 0)); then kept+=("$x"); fi
    done
    echo "${kept[*]}"
