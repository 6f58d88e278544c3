    printf %s "${1,,}" | fold -w1 | sort -u | grep -c .
