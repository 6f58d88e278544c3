    local i turned=""
    for ((i = ${#1} - 1; i >= 0; i--)); do turned+=${1:i:1}; done
    [[ $turned == "$1" ]] && echo true || echo false
