    tr ' ' '\n' <<< "$1" | sort -g | awk -v gap="$2" 'NR > 1 && $1 - last < gap { near = 1 } { last = $1 } END { print near ? "true" : "false" }'
