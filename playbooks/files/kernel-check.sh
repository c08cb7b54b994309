#!/bin/sh
# Says which kernel options of the list in $1 ("CONFIG_X:module:needed for:must;…") this machine lacks, one line each:
#   missing CONFIG_X (needed for …)
#   without CONFIG_X (needed for …)   where the list says `may` instead of `must`
#   unknown: the kernel's configuration cannot be read
# An option that is a module counts as there when the module is loaded, built in, or can be found.
set -u
release=$(uname -r)
config=$(mktemp) || exit 1
trap 'rm -f "$config"' EXIT
if [ -r /proc/config.gz ]; then zcat /proc/config.gz >"$config"
elif [ -r "/boot/config-$release" ]; then cat "/boot/config-$release" >"$config"
elif [ -r "/lib/modules/$release/config" ]; then cat "/lib/modules/$release/config" >"$config"
fi
module_is_there() {
    [ -n "$1" ] || return 1
    [ -d "/sys/module/$1" ] || modinfo "$1" >/dev/null 2>&1 || grep -q "/$1\.ko" "/lib/modules/$release/modules.builtin" 2>/dev/null
}
printf '%s\n' "$1" | tr ';' '\n' | while IFS=: read -r option module needed_for weight; do
    [ -n "$option" ] || continue
    word=missing
    [ "$weight" = may ] && word=without
    case $(sed -n "s/^$option=//p" "$config") in
    y) ;;
    m) module_is_there "$module" || [ -z "$module" ] || echo "$word $option: module $module is not there (needed for $needed_for)" ;;
    *) if [ -s "$config" ]; then module_is_there "$module" || echo "$word $option (needed for $needed_for)"; fi ;;
    esac
done
[ -s "$config" ] || echo "unknown: the kernel's configuration cannot be read (/proc/config.gz, /boot/config-$release)"
