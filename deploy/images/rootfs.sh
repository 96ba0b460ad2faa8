#!/bin/sh
# Puts together the files of an image in a folder: what the Dockerfiles beside it run, and the tests too.
#
#   rootfs.sh IMAGE PARTS DEST
#
# IMAGE is evermeshd, envoy or route-manager. PARTS is a folder with the programs it is made of (see below); programs of the
# system are taken from PATH, each with the libraries that it is linked with. DEST must not exist.
#
# There is no package manager and, but in the image envoy, no shell in what comes out. That one has the few commands that
# health checks and hooks written for App Mesh's image call: sh, sleep, grep, cat, and curl for one address.
set -eu
umask 022

image=${1:?rootfs.sh IMAGE PARTS DEST} parts=${2:?rootfs.sh IMAGE PARTS DEST} dest=${3:?rootfs.sh IMAGE PARTS DEST}
[ ! -e "$dest" ] || { echo "rootfs.sh: $dest exists" >&2; exit 2; }

# put SOURCE PLACE: a program under its name in the image, with the libraries that it is linked with.
put() {
	mkdir -p "$dest$(dirname "$2")"
	cp -L "$1" "$dest$2"
	chmod 0755 "$dest$2"
	# A static program has none, which ldd says with its exit code.
	{ ldd "$1" 2>/dev/null || true; } | sed -n 's/.*=> \(\/[^ ]*\).*/\1/p; s/^[[:space:]]*\(\/[^ ]*ld-[^ ]*\).*/\1/p' | while read -r library; do
		[ -e "$dest$library" ] || { mkdir -p "$dest$(dirname "$library")" && cp -L "$library" "$dest$library"; }
	done
}

# system NAME PLACE: a program that the system has.
system() {
	where=$(PATH="$PATH:/usr/sbin:/sbin" command -v "$1") || { echo "rootfs.sh: $1 is not on PATH" >&2; exit 1; }
	put "$where" "$2"
}

# user NAME ID: who runs the image, beside root, and its home.
user() {
	mkdir -p "$dest/etc" "$dest/var/lib/$1"
	printf 'root:x:0:0:root:/:/sbin/nologin\n%s:x:%s:%s:%s:/var/lib/%s:/sbin/nologin\n' "$1" "$2" "$2" "$1" "$1" > "$dest/etc/passwd"
	printf 'root:x:0:\n%s:x:%s:\n' "$1" "$2" > "$dest/etc/group"
	chmod 0700 "$dest/var/lib/$1"
	[ "$(id -u)" != 0 ] || chown "$2:$2" "$dest/var/lib/$1"
}

# authorities: the public ones, where programs look for them, App Mesh's Envoy too.
authorities() {
	mkdir -p "$dest/etc/ssl/certs" "$dest/etc/pki/tls"
	cp -L /etc/ssl/certs/ca-certificates.crt "$dest/etc/ssl/certs/ca-certificates.crt"
	ln -s /etc/ssl/certs/ca-certificates.crt "$dest/etc/pki/tls/cert.pem"
}

mkdir -p "$dest/tmp" "$dest/run"
chmod 1777 "$dest/tmp"
ln -s /run "$dest/var-run" && mkdir -p "$dest/var" && mv "$dest/var-run" "$dest/var/run"
case $image in
evermeshd)
	put "$parts/evermeshd" /usr/bin/evermeshd
	put "$parts/evermesh" /usr/bin/evermesh
	user evermesh 65532
	authorities
	;;
envoy)
	put "$parts/evermesh-agent" /usr/bin/agent
	put "$parts/envoy" /usr/bin/envoy
	user envoy 1337
	authorities
	# Where the agent keeps what Envoy has, for a start without the control plane.
	mkdir -p "$dest/var/lib/evermesh-agent" && chmod 0700 "$dest/var/lib/evermesh-agent"
	[ "$(id -u)" != 0 ] || chown 1337:1337 "$dest/var/lib/evermesh-agent"
	mkdir -p "$dest/run/ecs" && chmod 1777 "$dest/run/ecs" # the agent's socket, in uds mode
	system busybox /bin/busybox
	for name in sh sleep grep cat wget; do ln -s busybox "$dest/bin/$name"; done
	cat > "$dest/usr/bin/curl" <<-'curl'
		#!/bin/sh
		# curl [OPTIONS] URL, for health checks: says what is at the URL. Options are without effect.
		for url; do :; done
		exec wget -q -O - "$url"
	curl
	chmod 0755 "$dest/usr/bin/curl"
	;;
route-manager)
	put "$parts/evermesh-agent" /usr/bin/evermesh-agent
	put "$parts/evermesh-cni" /opt/cni/bin/aws-appmesh
	system nft /usr/sbin/nft
	user route-manager 65532
	;;
*)
	echo "rootfs.sh: $image is none of evermeshd, envoy, route-manager" >&2
	exit 2
	;;
esac
