# shellcheck shell=bash disable=SC2034
# Checks the arguments of the scripts in this folder, which source it: a value with a line break, or one that begins
# with a hyphen, would become another line of a job file, or another option of gcloud and xpk.

name_pattern='[a-z]([-a-z0-9]{0,61}[a-z0-9])?' # of Google Cloud's resources and zones
number_pattern='[1-9][0-9]{0,5}'

fail() {
  echo "error: $*" >&2
  exit 2
}

# take VARIABLE PATTERN EXPECTED OPTION VALUE ...: sets the variable to the value, which the whole pattern must match.
take() {
  local LC_ALL=C # otherwise ranges such as a-z depend on the locale
  [ $# -ge 5 ] || fail "$4 needs a value."
  [[ $5 =~ ^($2)$ ]] || fail "$4 is $(printf %q "$5"); expected $3."
  printf -v "$1" %s "$5"
}

# quote WORD ...: sets `words` to the words as any shell reads them again.
quote() {
  local word
  words=""
  for word in "$@"; do
    [[ $word != *[[:cntrl:]]* ]] || fail "the argument $(printf %q "$word") has a line break or another control character."
    words+="$(printf %q "$word") "
  done
}
