    local x more=()
    for x in $1; do more+=($((x + 1))); done
    echo "${more[*]}"
