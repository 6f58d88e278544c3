    tr 'a-zA-Z' 'A-Za-z' <<< "$1"
