    seq -s ' ' 0 "$1"
