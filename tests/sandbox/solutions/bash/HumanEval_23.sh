    printf %s "${#1}"
