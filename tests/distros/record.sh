#!/bin/bash
# Records what the tools of this system print where labctl reads it, good and bad: the samples of
# tests/fixtures/distros. Needs root and the packages of setup/packages.txt.
#
#   record.sh DIRECTORY        one file a sample; STATUS, a line for each with its exit code; VERSIONS
#
# Everything happens in three namespaces that it makes and removes: client – router – server. The path behind the router
# carries 1400 bytes, the client's own route 1450.
set -uo pipefail

out=$1
mkdir -p "$out"
: >"$out/STATUS"
prefix=rec$$
client=$prefix-client router=$prefix-router server=$prefix-server
export LC_ALL=C

in_ns() { ip netns exec "$@"; }
cleanup() {
  local ns
  for ns in "$client" "$router" "$server"; do
    ip netns pids "$ns" 2>/dev/null | xargs -r kill -9
    ip netns delete "$ns" 2>/dev/null
  done
  rm -rf "$work"
}
work=$(mktemp -d)
trap cleanup EXIT

# sample NAME COMMAND…: standard output to NAME, standard error, when there is any, to NAME.stderr.
sample() {
  local name=$1
  shift
  "$@" >"$out/$name" 2>"$out/$name.stderr" </dev/null
  echo "$name $?" >>"$out/STATUS"
  [ -s "$out/$name.stderr" ] || rm -f "$out/$name.stderr"
}

for ns in "$client" "$router" "$server"; do
  ip netns add "$ns"
  in_ns "$ns" ip link set lo up
done
ip -n "$client" link add eth0 address 02:00:00:00:00:02 type veth peer name c0 address 02:00:00:00:00:01 netns "$router"
ip -n "$router" link add s0 address 02:00:00:00:01:01 type veth peer name eth0 address 02:00:00:00:01:02 netns "$server"
ip -n "$client" address add 10.9.0.2/24 dev eth0
ip -n "$router" address add 10.9.0.1/24 dev c0
ip -n "$router" address add 10.9.1.1/24 dev s0
ip -n "$server" address add 10.9.1.2/24 dev eth0
for pair in "$client eth0" "$router c0" "$router s0" "$server eth0"; do ip -n "${pair% *}" link set "${pair#* }" up; done
ip -n "$router" link set s0 mtu 1400
ip -n "$client" route add 10.9.1.0/24 via 10.9.0.1 mtu 1450
ip -n "$client" route add default via 10.9.0.1 dev eth0 mtu 1450
ip -n "$server" route add 10.9.0.0/24 via 10.9.1.1
in_ns "$router" sysctl -qw net.ipv4.ip_forward=1
sleep 1

# ping
sample ping-pass in_ns "$client" ping -n -D -c 3 -i 0.05 -s 56 -W 1 10.9.1.2
sample ping-closed-loop in_ns "$client" ping -n -D -c 20 -A -i 0 -s 56 -W 1 -p 00112233445566778899aabbccddeeff 10.9.1.2
sample ping-unreachable in_ns "$client" ping -n -D -c 2 -i 0.05 -s 56 -W 4 10.9.0.77
sample ping-too-big in_ns "$client" ping -n -c 1 -W 1 -M "do" -s 1400 10.9.1.2
ip -n "$client" route flush cache
sample ping-largest in_ns "$client" ping -n -c 1 -W 1 -M "do" -s 1422 10.9.0.1
sample ping-too-long in_ns "$client" ping -n -c 1 -W 1 -M "do" -s 1473 10.9.0.1
in_ns "$client" ip route replace 10.9.1.0/24 via 10.9.0.1 mtu 1300
ip -n "$client" route flush cache
sample ping-too-long-for-the-route in_ns "$client" ping -n -c 1 -W 1 -M "do" -s 1273 10.9.1.2
sample ping-lost in_ns "$client" ping -n -D -c 2 -i 0.05 -W 1 10.9.8.1
in_ns "$router" ip route add blackhole 10.9.8.0/24
sample ping-unanswered in_ns "$client" ping -n -c 1 -W 1 -M "do" -s 56 10.9.8.1
ip -n "$server" route add unreachable 10.9.3.0/24
sample ping-no-route in_ns "$server" ping -n -D -c 1 -W 1 10.77.0.1
sample ping-bad-option in_ns "$client" ping -n -c 1 -M nonsense 10.9.1.2
sample ping-killed in_ns "$client" timeout -s KILL 0.3 ping -n -D -c 9 -i 0.2 10.9.1.2

# iproute2
sample ip-address.json in_ns "$client" ip -j -4 address show dev eth0
sample ip-route.json in_ns "$client" ip -j -4 route show
sample ip-neighbour.json in_ns "$client" ip -j -4 neighbour show dev eth0
sample ip-no-device in_ns "$client" ip -j -4 address show dev nosuch

# tcpdump, as labctl calls it
ip netns exec "$client" tcpdump -i eth0 -n -U --immediate-mode --time-stamp-precision=micro -s 256 -w "$work/pcap" icmp 2>"$out/tcpdump.stderr" &
tcpdump=$!
sleep 1
in_ns "$client" ping -n -c 3 -i 0.05 10.9.0.1 >"$work/ping"
sleep 1
kill -TERM $tcpdump
wait $tcpdump
sample tcpdump-no-device in_ns "$client" tcpdump -i nosuch -n -w "$work/none"
sample tcpdump-bad-filter in_ns "$client" tcpdump -i eth0 -n -w "$work/none" 'icmp and nonsense and'

# iperf3: TCP, UDP, nobody listening, nobody there, the server killed
serve() { # FILE: an iperf3 server, whose process is server_pid. Not through in_ns: a function in the background is a shell.
  ip netns exec "$server" iperf3 -s -p 5201 --forceflush >"$1" 2>&1 &
  server_pid=$!
  sleep 0.5
}
iperf() { # NAME ARGUMENT…
  local name=$1
  shift
  sample "$name" in_ns "$client" iperf3 -c 10.9.1.2 -p 5201 --connect-timeout 3000 -J "$@"
}
ip -n "$client" route replace 10.9.1.0/24 via 10.9.0.1
ip -n "$router" link set s0 mtu 1500
ip -n "$client" route flush cache
serve "$out/iperf3-server"
iperf iperf3-tcp.json -t 1 -P 1
iperf iperf3-udp.json -t 1 -P 1 -u -b 10000000
iperf iperf3-exchange.json -n 1K
kill $server_pid
wait $server_pid
iperf iperf3-refused.json -t 1
sample iperf3-timed-out.json in_ns "$client" iperf3 -c 10.9.8.1 -p 5201 --connect-timeout 1000 -J -t 1
sample iperf3-no-route.json in_ns "$server" iperf3 -c 10.77.0.1 -p 5201 --connect-timeout 1000 -J -t 1
serve "$work/server"
(
  sleep 1
  kill -9 $server_pid
) &
iperf iperf3-server-died.json -t 3
wait
sample iperf3-bad-option in_ns "$client" iperf3 --nonsense

# sockperf
ip netns exec "$server" sockperf server --tcp -i 10.9.1.2 -p 11111 >"$out/sockperf-server" 2>&1 &
server_pid=$!
sleep 1
sample sockperf-pass in_ns "$client" sockperf ping-pong --tcp --full-rtt -i 10.9.1.2 -p 11111 -t 1 -m 64
# The log goes to standard error, as labctl asks for it; a file here, so that the two stay apart.
sample sockperf-paced in_ns "$client" bash -c 'sockperf under-load --tcp --full-rtt -i 10.9.1.2 -p 11111 -t 1 -m 64 --mps 100 --reply-every 1 --full-log /dev/stderr'
kill -TERM $server_pid
wait $server_pid
sample sockperf-refused in_ns "$client" sockperf ping-pong --tcp --full-rtt -i 10.9.1.2 -p 11111 -t 1 -m 64

# iptables, nft, conntrack
rules() {
  # With its policy named a chain counts what passes it, as in labctl's own tables; iptables 1.8.9 counts nothing without.
  printf '*mangle\n:FORWARD ACCEPT [0:0]\n'
  for hook in PREROUTING INPUT FORWARD OUTPUT POSTROUTING; do
    printf -- '-I %s -p icmp --icmp-type echo-request -s 10.9.0.2 -d 10.9.1.2 -m comment --comment labctl-sample-pod-request\n' "$hook"
  done
  printf 'COMMIT\n*filter\n-A FORWARD -p tcp --dport 9 -m comment --comment "a rule that drops" -j DROP\nCOMMIT\n'
}
rules | in_ns "$router" iptables-restore --noflush --wait 5 2>"$out/iptables-restore.stderr"
[ -s "$out/iptables-restore.stderr" ] || rm -f "$out/iptables-restore.stderr"
in_ns "$router" iptables -t nat -A POSTROUTING -d 10.255.0.0/16 -j MASQUERADE
in_ns "$client" ping -n -c 3 -i 0.05 10.9.1.2 >"$work/ping"
sample iptables-save in_ns "$router" iptables-save -c
sample iptables-save-mangle in_ns "$router" iptables-save -c -t mangle
sample nft-chain in_ns "$router" nft -a list chain ip filter FORWARD
sample nft-no-chain in_ns "$router" nft -a list chain ip nosuch FORWARD
sample conntrack-list in_ns "$router" conntrack -L -s 10.9.0.2 -d 10.9.1.2 -p icmp
sample conntrack-none in_ns "$router" conntrack -L -s 10.9.0.2 -d 10.9.9.9 -p udp
sample iptables-bad in_ns "$router" iptables -A NOSUCH -j ACCEPT

# ssh: refused, no such name, dropped at once and after the banner, no key that fits, the host's key changed
mkdir -p "$work/ssh" /run/sshd
ssh-keygen -q -t ed25519 -N '' -f "$work/ssh/host"
ssh-keygen -q -t ed25519 -N '' -f "$work/ssh/other"
shell() { # NAME KNOWN_HOSTS ARGUMENT…
  local name=$1 known=$2
  shift 2
  sample "$name" in_ns "$client" ssh -F /dev/null -o BatchMode=yes -o ConnectTimeout=2 \
    -o "UserKnownHostsFile=$known" -i "$work/ssh/other" "$@" true
}
shell ssh-refused "$work/ssh/known" -o StrictHostKeyChecking=no -p 22 root@10.9.1.2
shell ssh-timed-out "$work/ssh/known" -o StrictHostKeyChecking=no -p 22 root@10.9.8.1
shell ssh-no-name "$work/ssh/known" -o StrictHostKeyChecking=no nobody.invalid
dropping() { # PORT BANNER
  ip netns exec "$server" python3 -c '
import socket, sys
server = socket.create_server(("10.9.1.2", int(sys.argv[1])))
while True:
    client, _ = server.accept()
    if sys.argv[2]:
        client.sendall(sys.argv[2].encode() + b"\r\n")
        client.recv(4096)
    client.close()
' "$1" "$2" 2>"$work/dropping-$1" &
}
dropping 2223 ''
dropping 2224 SSH-2.0-OpenSSH_9.2
sleep 1
shell ssh-dropped "$work/ssh/known" -o StrictHostKeyChecking=no -p 2223 root@10.9.1.2
shell ssh-dropped-later "$work/ssh/known" -o StrictHostKeyChecking=no -p 2224 root@10.9.1.2
ip netns exec "$server" "$(command -v sshd || echo /usr/sbin/sshd)" -D -e -f /dev/null -o "HostKey=$work/ssh/host" -o "PidFile=none" -o "UsePAM=no" -o PasswordAuthentication=no -p 2222 2>"$work/sshd" &
sleep 1
shell ssh-denied "$work/ssh/known" -o StrictHostKeyChecking=no -p 2222 root@10.9.1.2
shell ssh-unknown-key /dev/null -o StrictHostKeyChecking=yes -p 2222 root@10.9.1.2
printf '[10.9.1.2]:2222 %s\n' "$(cut -d' ' -f1,2 <"$work/ssh/other.pub")" >"$work/ssh/known"
shell ssh-changed-key "$work/ssh/known" -o StrictHostKeyChecking=yes -p 2222 root@10.9.1.2

# Whose machine it was is nobody's business.
sed -i "s/$(uname -r)/$(uname -r | sed 's/-.*//')/" "$out"/*.json

# What they say about themselves
{
  sed -n 's/^PRETTY_NAME="\(.*\)"/\1/p' /etc/os-release
  ping -V | head -n 1
  ip -V
  tcpdump --version 2>&1 | head -n 1
  iperf3 --version | head -n 1
  sockperf --version | head -n 1
  iptables --version
  nft --version
  conntrack --version
  ssh -V 2>&1
  uname -r | sed "s/-.*//"
} >"$out/VERSIONS"
