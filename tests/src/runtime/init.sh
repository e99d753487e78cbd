# The first process of containerd's namespaces: sets them up, runs it, and ends everything when its standard input ends.
# Arguments: containerd, its configuration, its log, the control group that the pods are in, the version of control groups,
# and a directory of device nodes to be seen in /dev, or nothing.
set -eu
containerd=$1 config=$2 log=$3 group=$4 version=$5 nodes=$6

if [ "$version" = 2 ]; then
	# One hierarchy, writable, however the machine has it: version 2's device filters need no controller.
	umount --recursive /sys/fs/cgroup 2>/dev/null || true
	mount -t cgroup2 cgroup2 /sys/fs/cgroup
else
	# Each controller's hierarchy stays where the machine has it; crun refuses to work with both versions.
	umount /sys/fs/cgroup/unified 2>/dev/null || true
fi
groups() {
	for dir in "/sys/fs/cgroup/$group" /sys/fs/cgroup/*/"$group"; do
		[ ! -d "$dir" ] || echo "$dir"
	done
}
# Shims put their sockets below /run, whatever the configuration says.
mount -t tmpfs tmpfs /run
[ -z "$nodes" ] || mount -t overlay -o "lowerdir=$nodes:/dev" overlay /dev

"$containerd" --config "$config" >"$log" 2>&1 &
read -r _ || true

kill -KILL -1 || true
wait
for _ in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20; do
	[ -n "$(groups)" ] || exit 0
	for dir in $(groups); do
		find "$dir" -depth -type d -exec rmdir {} + 2>/dev/null || true
	done
	[ -z "$(groups)" ] || sleep 0.05
done
