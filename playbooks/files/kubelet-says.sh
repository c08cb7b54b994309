# Part of a shell task that failed: what the kubelet says most often, without what it says of every node that is not
# ready yet. kubeadm itself only knows that it timed out.
journalctl --unit kubelet --no-pager --output cat --lines 2000 2>/dev/null |
    sed -n 's/^[EF][0-9]\{4\} [^]]*\] *//p' |
    grep -vE 'node "[^"]*" not found|[Uu]nable to register node|connection refused|no such host|NetworkPluginNotReady|cni plugin not initialized|kubelet/config\.yaml|[Ee]rror syncing pod|inotify_add_watch' |
    cut -c 1-400 | sort | uniq -c | sort -rn | sed -n '1s/^ *[0-9]* */the kubelet says: /p' >&2
