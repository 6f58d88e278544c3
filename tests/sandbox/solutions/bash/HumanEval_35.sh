    tr ' ' '\n' <<< "$1" | sort -n | tail -1
