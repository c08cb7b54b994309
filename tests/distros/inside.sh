#!/bin/bash
# Runs inside a fresh distribution: the README's commands, as a person with sudo types them in a fresh clone.
#
#   inside.sh TESTS NEWEST STEP…        steps: compare, test; NEWEST: what `make test` is given to ignore the lock, or nothing
#
# The clone lies beside this script and becomes /home/person/labctl. Beside this script are left, for each step, STEP.log,
# STEP.status (the exit code) and STEP.seconds; and `versions`, a line for each tool with what it says about itself.
set -uo pipefail

here=$(cd "$(dirname "$0")" && pwd)
tests=$1 newest=$2
shift 2

update-ca-certificates >"$here/certificates.log" 2>&1 || {
  cat "$here/certificates.log"
  exit 3
}
useradd --create-home --shell /bin/bash person
mv "$here/labctl" /home/person/labctl
chown -R person:person /home/person/labctl

run_step() { # STEP COMMAND
  local begin=$SECONDS status=0
  echo "== $(sed -n 's/^PRETTY_NAME="\(.*\)"/\1/p' /etc/os-release): $2"
  runuser -l person -c "cd labctl && $2" </dev/null 2>&1 | tee "$here/$1.log" || status=$?
  echo "$status" >"$here/$1.status"
  echo $((SECONDS - begin)) >"$here/$1.seconds"
  echo "== exit code $status after $((SECONDS - begin)) s"
}

for step in "$@"; do
  case $step in
    compare) run_step compare "sudo make compare" ;;
    test) run_step test "sudo make test${newest:+ $newest}${tests:+ TESTS=$(printf %q "$tests")}" ;;
  esac
done

tell() { # NAME COMMAND…: the first line that the command prints
  local name=$1
  shift
  printf '%s\t%s\n' "$name" "$("$@" 2>&1 </dev/null | head -n 1)"
}
{
  tell python /home/person/labctl/.venv/bin/python --version
  tell iputils ping -V
  tell iproute2 ip -V
  tell iperf3 iperf3 --version
  tell nft nft --version
  tell tcpdump tcpdump --version
  tell clang clang --version
  tell openssh ssh -V
  tell kernel uname -r
} >"$here/versions"
venv=/home/person/labctl/.venv-newest
[ ! -x $venv/bin/python ] || $venv/bin/python -m pip list --format=freeze >"$here/packages" 2>/dev/null
