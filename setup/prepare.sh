#!/usr/bin/env bash
# Makes this machine ready: the distribution's packages of the named groups, and .venv with labctl in it.
#
#   setup/prepare.sh [--root COMMAND] [--newest] [GROUP…]      groups: see setup/packages.txt
#   setup/prepare.sh --python                                  prints the path of the Python that .venv is made with
#
# Without a group only .venv is made, which needs no root. The groups lint and test also bring the development tools
# into .venv. What is installed are the versions of the lock files (requirements*.txt); with --newest it is the newest
# that pyproject.toml allows, in .venv-newest, and .venv stays as it is. Safe to repeat (under a second when nothing is
# missing), to interrupt and to run twice at once.
# Exit codes are labctl's: 0 ready, 2 usage, 3 the host lacks something that could not be installed.
set -euo pipefail
umask go-w # .venv is code that root runs: no other user may write it, whatever the umask

root=$(cd "$(dirname "$(readlink -f "$0")")/.." && pwd)
venv=$root/.venv
mode=lock
PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin
# What this script and pip read and write must not depend on the user's locale: setuptools writes .pth files in its
# encoding. (bash warns where there is no C.UTF-8; Python then takes UTF-8 from the second variable.)
{ export LC_ALL=C.UTF-8 PYTHONUTF8=1; } 2>/dev/null
apt_lists_are_fresh=

say() { printf 'setup: %s\n' "$*" >&2; }

# lack WHAT WHY TRY: the same three lines as every error of labctl.
lack() {
  printf 'error: %s\n' "$1" >&2
  [ -z "$2" ] || printf '  why: %s\n' "$2" >&2
  [ -z "$3" ] || printf '  try: %s\n' "$3" >&2
  exit 3
}

# quoted PATH: as a shell has to be given it.
quoted() {
  case $1 in
    *[!A-Za-z0-9/._+-]*) printf "'%s'" "${1//\'/\'\\\'\'}" ;;
    *) printf '%s' "$1" ;;
  esac
}

pinned() { sed -n "s/^$1 \{1,\}\([^ ]*\).*/\1/p" "$root/setup/pins.txt"; } # NAME: its version

is_root() { [ "$(id -u)" = 0 ]; }
has_apt() { command -v apt-get >/dev/null; }
in_list() { case " $2 " in *" $1 "*) return 0 ;; *) return 1 ;; esac; }

# ---- the distribution's packages

apt_update() {
  [ -z "$apt_lists_are_fresh" ] || return 0
  apt-get -qq -o DPkg::Lock::Timeout=300 update >&2 9<&- || say "apt-get update had errors; continuing with the lists that it has"
  apt_lists_are_fresh=yes
}

# apt_version PACKAGE: the version that apt would install, or nothing.
apt_version() {
  LC_ALL=C apt-cache policy "$1" 2>/dev/null | sed -n 's/^  Candidate: //p' | grep -v '^(none)$' || true
}

# apt_name PACKAGE: the name of that package on this distribution.
apt_name() {
  if [ "$1" = bpftool ] && [ -z "$(apt_version bpftool)" ]; then
    echo linux-tools-generic # Ubuntu before 24.10 has it there
  else
    echo "$1"
  fi
}

# Tests start their own sshd in namespaces; a package that they need must not open a port on this machine. Debian's way
# to say so is a policy-rc.d that forbids every start; a later boot is kept from it by disabling what was enabled.
no_services() {
  local policy=/usr/sbin/policy-rc.d made=''
  if [ ! -e "$policy" ]; then
    made=yes
    printf '#!/bin/sh\nexit 101\n' >"$policy"
    chmod 755 "$policy"
  fi
  local result=0
  "$@" || result=$?
  [ -z "$made" ] || rm -f "$policy"
  return $result
}

keep_disabled() { # PACKAGES
  command -v systemctl >/dev/null || return 0
  ! in_list openssh-server "$1" || systemctl --quiet disable ssh.service ssh.socket >/dev/null 2>&1 || true
  ! in_list frr "$1" || systemctl --quiet disable frr.service >/dev/null 2>&1 || true
}

# apt_install PACKAGE…: without questions. What it says is shown when it fails. No service that it starts may inherit
# our lock (9<&-).
apt_install() {
  apt_update
  local wanted=() name log
  for name in "$@"; do wanted+=("$(apt_name "$name")"); done
  say "installing ${wanted[*]}"
  log=$(mktemp)
  DEBIAN_FRONTEND=noninteractive no_services apt-get -y --no-install-recommends -o DPkg::Lock::Timeout=300 \
    install "${wanted[@]}" </dev/null >"$log" 2>&1 9<&- || {
    tail -n 20 "$log" >&2
    lack "apt-get could not install ${wanted[*]}" "its last messages are above" \
      "apt-get update && apt-get install -y ${wanted[*]}"
  }
  rm -f "$log"
  keep_disabled "${wanted[*]}"
}

is_present() { # HOW NAME
  case $1 in
    command) command -v "$2" >/dev/null ;;
    library) [[ $libraries == *"$2 "* ]] ;;
    keys) [ -e "/usr/share/keyrings/$2" ] ;;
    file) [ -e "/usr/$2" ] ;;
    header) [ -e "/usr/include/$2" ] || compgen -G "/usr/include/*-linux-gnu*/$2" >/dev/null ;;
  esac
}

# missing_packages GROUPS: one package a line, each once.
missing_packages() {
  local group how name package libraries
  libraries=$(ldconfig -p 2>/dev/null || true)
  while read -r group how name package; do
    [[ $group == \#* || -z $group ]] && continue
    in_list "$group" "$1" || continue
    is_present "$how" "$name" || echo "$package"
  done <"$root/setup/packages.txt" | sort -u
}

# ---- Python

python_version() { "$1" -c 'import sys; print(".".join(map(str, sys.version_info[:3])))' 2>/dev/null; }
is_new_enough() { "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; }
can_make_venv() { "$1" -c 'import ensurepip, venv' 2>/dev/null; }

# find_python TEST…: the first interpreter that passes every test.
find_python() {
  local candidate path test
  for candidate in ${PYTHON:+"$PYTHON"} /usr/bin/python3 python3 python3.14 python3.13 python3.12 python3.11; do
    path=$(command -v "$candidate") || continue
    for test in "$@"; do "$test" "$path" || continue 2; done
    echo "$path"
    return 0
  done
  return 1
}

# python_packages: what apt has to install so that find_python succeeds; nothing when it already does.
python_packages() {
  ! find_python is_new_enough can_make_venv >/dev/null || return 0
  local version minor
  # A new enough Python of the distribution that only lacks ensurepip, which Debian keeps in its own package.
  if [ -x /usr/bin/python3 ] && is_new_enough /usr/bin/python3; then
    echo python3-venv
    return 0
  fi
  version=$(apt_version python3)
  if [ -n "$version" ] && dpkg --compare-versions "$version" ge 3.11; then
    echo python3 python3-venv
    return 0
  fi
  for minor in 14 13 12 11; do
    [ -n "$(apt_version "python3.$minor-venv")" ] || continue
    echo "python3.$minor" "python3.$minor-venv"
    return 0
  done
  lack "Python 3.11 or newer is missing, and this distribution has none" \
    "the newest package here is python3 ${version:-(none)}" \
    "install one (https://docs.python.org/3/using/unix.html), then: PYTHON=/path/to/python3.12 $again"
}

# why_no_python: the reason for which find_python found none.
why_no_python() {
  local path
  if path=$(find_python is_new_enough); then
    echo "$path has no ensurepip"
  elif path=$(command -v python3); then
    echo "$path is Python $(python_version "$path" || echo "that does not start")"
  else
    echo "there is no python3"
  fi
}

# ---- .venv

# locks EXTRAS: the lock files that .venv is filled from.
locks() {
  echo "$root/setup/requirements-build.txt"
  echo "$root/requirements${1:+-$1}.txt"
}

# The stamp says what .venv was made from. It is written last: a venv without it is half made.
stamp_text() { # EXTRAS
  local made_from
  mapfile -t made_from < <(locks "$1")
  printf '%s\nextras %s\nmode %s\ntree %s\n' "$(cat "$root/pyproject.toml" "${made_from[@]}" | sha256sum)" "$1" \
    "$mode" "$root"
}

is_venv_current() { # EXTRAS
  # The newest versions are looked for each time.
  [ "$mode" = lock ] && [ -x "$venv/bin/python" ] && [ -f "$stamp" ] &&
    [ "$(cat "$stamp")" = "$(stamp_text "$1")" ] && is_venv_sound "$1"
}

is_venv_sound() { # EXTRAS
  local made_from=()
  [ "$mode" != lock ] || mapfile -t made_from < <(locks "$1")
  "$venv/bin/python" -I "$root/setup/check_venv.py" "$root" "${made_from[@]}"
}

pip_install() { "$venv/bin/python" -m pip --disable-pip-version-check --quiet install "$@" 9<&- >&2; }

# fill_venv EXTRAS: first pip and the build back end, since these install the rest.
fill_venv() {
  if [ "$mode" = newest ]; then
    pip_install --upgrade pip setuptools &&
      pip_install --upgrade --upgrade-strategy eager --no-build-isolation --editable "$root${1:+[$1]}"
  else
    pip_install --require-hashes -r "$root/setup/requirements-build.txt" &&
      pip_install --require-hashes -r "$root/requirements${1:+-$1}.txt" &&
      pip_install --no-deps --no-build-isolation --editable "$root"
  fi && point_to_source
}

# point_to_source: the file with which pip made Python look for labctl in src/ names that folder in full, in the
# encoding of the locale before Python 3.13. A relative path is plain ASCII wherever the tree is.
point_to_source() {
  local pth
  for pth in "$venv"/lib/python3.*/site-packages/__editable__.labctl_datapath-*.pth; do
    [ -f "$pth" ] || return 1
    echo ../../../../src >"$pth"
  done
}

# is_worth_keeping: .venv answers, and was made for this place (a venv holds absolute paths).
is_worth_keeping() {
  "$venv/bin/python" -m pip --version >/dev/null 2>&1 && is_new_enough "$venv/bin/python" &&
    { [ ! -f "$stamp" ] || LC_ALL=C grep -qxF "tree $root" "$stamp"; }
}

# make_venv EXTRAS: 1 when pip failed, 2 when what it installed is not what has to be there.
make_venv() {
  local python
  if ! is_worth_keeping; then
    python=$(find_python is_new_enough can_make_venv) ||
      lack "no Python 3.11 or newer that can make a venv" "$(why_no_python)" "$(python_remedy)"
    say "making $venv_name with $("$python" -c 'import sys; print(sys.executable, sys.version.split()[0])')"
    rm -rf "$venv"
    "$python" -m venv "$venv" 9<&- >&2 || no_venv
  fi
  rm -f "$stamp"
  say "installing $(what_is_installed "$1") into $venv_name"
  fill_venv "$1" || return 1
  is_venv_sound "$1" || return 2
}

what_is_installed() { # EXTRAS
  echo "labctl${1:+ and its $1 tools}$([ "$mode" = lock ] || echo ", the newest versions,")"
}

python_remedy() {
  if has_apt && { ! [ -x /usr/bin/python3 ] || is_new_enough /usr/bin/python3; }; then
    echo "sudo apt-get install -y python3 python3-venv"
  else
    echo "install one (https://docs.python.org/3/using/unix.html), then: PYTHON=/path/to/python3.12 $again"
  fi
}

# no_venv: Python could not make one; the folder is most often why.
no_venv() {
  local why="its own message is above" try="$again"
  if [[ $root == *:* ]]; then
    why="the name of a folder of $root has a ':', which separates folders in PATH"
    try="move the clone to a folder without ':'"
  elif ! printf '%s' "$root" | iconv -f UTF-8 -t UTF-8 >/dev/null 2>&1; then
    why="the name of a folder of $root is not UTF-8, and Python writes such a path into no file"
    try="rename the folder, or move the clone"
  fi
  rm -rf "$venv"
  lack "Python could not make $venv_name" "$why" "$try"
}

prepare_venv() { # EXTRAS
  local extras=$1 result=0
  # Development tools that are there stay there.
  if [ -f "$stamp" ] && grep -qx 'extras dev' "$stamp"; then extras=dev; fi
  if is_venv_current "$extras"; then
    touch "$stamp" 2>/dev/null || true # the launcher only compares its time with those of what .venv was made from
    return
  fi
  can_write
  if ! make_venv "$extras"; then
    say "$venv_name is damaged; making it again"
    rm -rf "$venv"
    make_venv "$extras" || result=$?
    [ $result != 1 ] || lack "pip could not install labctl into $venv_name" "its own message is above" \
      "check the network, or PIP_INDEX_URL and the mirror that it names; then again: $again"
    [ $result = 0 ] || lack "the lock files do not give labctl what it needs" "the reasons are above" \
      "make upgrade ONLY=NAME for a package that pyproject.toml lists and the lock files do not"
  fi
  stamp_text "$extras" >"$stamp.new" && mv "$stamp.new" "$stamp"
  give_to_owner
}

can_write() {
  local place
  for place in "$root" "$venv"; do
    if [ ! -e "$place" ] || [ -w "$place" ]; then continue; fi
    if is_root || [ -O "$place" ]; then
      lack "$venv_name cannot be brought up to date" "$place cannot be written to (a read-only file system or folder)" \
        "a clone in a folder that can be written to"
    fi
    lack "$venv_name cannot be brought up to date" "$place belongs to $(stat -c %U "$place"), not to $(id -un)" \
      "sudo $again"
  done
}

# Under sudo in a user's own clone, what we made belongs to that user.
give_to_owner() {
  is_root && [ "$(stat -c %u "$root")" != 0 ] || return 0
  # Whether there is an .egg-info depends on how the build back end was called.
  local made
  for made in "$venv" "$root"/src/*.egg-info; do
    [ ! -e "$made" ] || chown -R --reference="$root" "$made"
  done
}

# ---- kind and helm for the tests, from their Go modules

tools=$root/.tools

# find_go: a Go of 1.21 or later, which brings the toolchain that a module asks for by itself.
find_go() {
  local candidate path minor
  for candidate in go /usr/local/go/bin/go; do
    path=$(command -v "$candidate") || continue
    minor=$("$path" env GOVERSION 2>/dev/null | sed -n 's/^go1\.\([0-9]*\).*/\1/p')
    if [ "${minor:-0}" -ge 21 ]; then
      echo "$path"
      return 0
    fi
  done
  return 1
}

# prepare_tools: .tools/bin with kind and helm. Tests that need them are skipped where they cannot be built, and say so.
prepare_tools() {
  local go kind_version helm_version versions
  kind_version=$(pinned kind) helm_version=$(pinned helm)
  versions="kind $kind_version helm $helm_version"
  if [ -x "$tools/bin/kind" ] && [ -x "$tools/bin/helm" ] && [ "$(cat "$tools/stamp" 2>/dev/null)" = "$versions" ]; then
    return 0
  fi
  go=$(find_go) || {
    say "no Go 1.21 or later here: tests that need kind and helm will be skipped"
    return 0
  }
  [ -w "$root" ] || return 0
  mkdir -p "$tools/bin"
  rm -f "$tools/stamp"
  say "building kind $kind_version and helm $helm_version into .tools/bin (once; a few minutes)"
  if GOBIN=$tools/bin nice "$go" install "sigs.k8s.io/kind@$kind_version" >&2 9<&- &&
    GOBIN=$tools/bin nice "$go" install "helm.sh/helm/v3/cmd/helm@$helm_version" >&2 9<&-; then
    echo "$versions" >"$tools/stamp.new" && mv "$tools/stamp.new" "$tools/stamp"
  else
    say "they could not be built (its own message is above): tests that need them will be skipped"
  fi
  ! is_root || [ "$(stat -c %u "$root")" = 0 ] || chown -R --reference="$root" "$tools"
}

# ---- the order of things

# take_turns: one setup of this tree at a time. 75: another one holds the lock; other codes are flock's own failures,
# as on a network file system without locks.
take_turns() {
  local result=0
  exec 9<"$root/pyproject.toml"
  flock -n -E 75 9 || result=$?
  if [ $result = 75 ]; then
    say "waiting for another setup of this tree"
    result=0
    flock -w 900 -E 75 9 || result=$?
    [ $result != 75 ] || lack "another setup of this tree did not finish within 15 minutes" "" \
      "fuser -v $(quoted "$root/pyproject.toml")"
  fi
}

main() {
  local groups='' extras='' needs_root_for='' missing
  again=$(quoted "$root/setup/prepare.sh")
  while [ $# -gt 0 ]; do
    case $1 in
      --newest) mode=newest venv=$root/.venv-newest ;;
      --python)
        find_python is_new_enough can_make_venv ||
          lack "no Python 3.11 or newer that can make a venv" "$(why_no_python)" "$(python_remedy)"
        return
        ;;
      --root) needs_root_for=${2:?--root needs the command to suggest} && shift ;;
      run | distros | networks | vm | machines) groups+=" $1" ;;
      lint | test) groups+=" $1" extras=dev ;;
      *)
        printf 'usage: setup/prepare.sh [--root COMMAND] [--newest] [run] [lint] [test] [distros] [networks] [vm] [machines] | --python\n' >&2
        exit 2
        ;;
    esac
    shift
  done
  venv_name=${venv##*/} stamp=$venv/labctl-stamp
  [ "$mode" = lock ] || again+=" --newest"
  if [ -n "$needs_root_for" ] && ! is_root; then
    lack "$needs_root_for needs root" "labctl makes network namespaces and loads eBPF programs" "sudo $needs_root_for"
  fi

  take_turns

  missing=$(missing_packages "$groups")
  if has_apt && is_root; then
    # A bare system has no package lists yet, and the choice of a Python needs them.
    find_python is_new_enough >/dev/null || apt_update
    missing+=" $(python_packages)"
    # shellcheck disable=SC2086  # a list of package names
    [ -z "${missing//[[:space:]]/}" ] || apt_install $missing
    missing=$(missing_packages "$groups")
  fi
  if [ -n "$missing" ]; then
    lack "not installed here: ${missing//$'\n'/ }" "" "$(has_apt && echo "sudo apt-get install -y ${missing//$'\n'/ }" ||
      echo "install them with your distribution's package tool (the names are Debian's)")"
  fi
  prepare_venv "$extras"
  ! in_list test "$groups" || prepare_tools
}

main "$@"
