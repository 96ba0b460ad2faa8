#!/bin/sh
# Puts the agent and the interception of a workload on a host with systemd, or takes them away again. Run it as root:
#
#   install.sh [BIN]         the agent from the folder BIN, else from bin of the repository, and Envoy, if one is in BIN
#   install.sh --remove      all but /etc/evermesh, what the agent keeps, and the user envoy
#   install.sh --purge       these too
#
# It can be run again at any time, also to install a new version: /etc/evermesh/agent.env stays as it is, and what runs goes
# on until it is started anew. With DESTDIR it puts files there and does nothing else, for packages.
set -eu
umask 022

here=$(cd "$(dirname "$0")" && pwd)
dest=${DESTDIR:-}
bin=$dest/usr/local/bin units=$dest/etc/systemd/system users=$dest/etc/sysusers.d etc=$dest/etc/evermesh

say() { echo "install.sh: $*" >&2; }
# live COMMAND...: what is done to a running host alone.
live() { [ -n "$dest" ] || "$@"; }

remove() {
	live systemctl disable --now evermesh-agent.service evermesh-intercept.service || true
	rm -f "$units/evermesh-agent.service" "$units/evermesh-intercept.service" "$users/evermesh.conf" "$bin/evermesh-agent"
	# Envoy stays if it was not brought by this script.
	if [ -e "$etc/.envoy" ]; then rm -f "$bin/envoy" "$etc/.envoy"; fi
	live systemctl daemon-reload
}

put() {
	from=${1:-$here/../../bin}
	[ -x "$from/evermesh-agent" ] || { say "$from has no evermesh-agent: run make build, or name the folder that has it"; exit 1; }
	mkdir -p "$bin" "$units" "$users" "$etc"
	# Under another name first: a program that runs cannot be written to.
	install -m 0755 "$from/evermesh-agent" "$bin/.evermesh-agent"
	mv "$bin/.evermesh-agent" "$bin/evermesh-agent"
	if [ -x "$from/envoy" ]; then
		install -m 0755 "$from/envoy" "$bin/.envoy"
		mv "$bin/.envoy" "$bin/envoy"
		: > "$etc/.envoy"
	elif [ ! -x "$bin/envoy" ] && [ -z "$dest" ]; then
		say "there is no $bin/envoy: put Envoy 1.36 or newer there, or name another in $etc/agent.env by ENVOY_PATH"
	fi
	install -m 0644 "$here/evermesh-intercept.service" "$here/evermesh-agent.service" "$units/"
	install -m 0644 "$here/evermesh.conf" "$users/"
	# It may hold keys; systemd reads it as root.
	[ -e "$etc/agent.env" ] || install -m 0600 "$here/agent.env" "$etc/agent.env"
	live systemd-sysusers "$users/evermesh.conf"
	live systemctl daemon-reload
}

if [ -z "$dest" ] && [ "$(id -u)" != 0 ]; then
	say "must be run as root"
	exit 1
fi
case ${1:-} in
--remove) remove ;;
--purge)
	remove
	rm -rf "$etc" "$dest/var/lib/evermesh-agent"
	if [ -z "$dest" ] && getent passwd envoy > /dev/null; then userdel envoy; fi
	# userdel leaves the group on some systems.
	if [ -z "$dest" ] && getent group envoy > /dev/null; then groupdel envoy; fi
	;;
-*)
	say "$1 is neither --remove nor --purge"
	exit 2
	;;
*) put "$@" ;;
esac
