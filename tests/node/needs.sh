# What has to be there: named when it is missing, never fetched behind anyone's back (but for CI, which says so).

musl=x86_64-unknown-linux-musl

needs() {
  [ "$(uname -s)" = Linux ] && [ "$(id -u)" = 0 ] || fail "needs root on Linux: a node mounts, routes and runs containers"
  [ -z "${CI:-}" ] || [ "$CI" = false ] || install_packages
  local missing=() tool
  for tool in containerd:containerd ctr:containerd runc:runc nft:nftables ip:iproute2 conntrack:conntrack buildah:buildah busybox:busybox-static openssl:openssl \
    jq:jq curl:curl nginx:nginx-light nsenter:util-linux go:golang cargo:rustup musl-gcc:musl-tools; do
    PATH=$PATH:/usr/sbin:/sbin command -v "${tool%:*}" >/dev/null || missing+=("${tool%:*} (Debian: ${tool#*:})")
  done
  ! command -v cargo >/dev/null || [ -d "$(rustc --print target-libdir --target "$musl")" ] || missing+=("Rust's $musl (rustup target add $musl)")
  cni_plugins=
  for tool in /usr/lib/cni /opt/cni/bin; do [ ! -x "$tool/ptp" ] || cni_plugins=$tool; done
  [ -n "$cni_plugins" ] || missing+=("the CNI plugin ptp (Debian: containernetworking-plugins)")
  [ -n "$(postgres_programs)" ] || missing+=("PostgreSQL's programs (Debian: postgresql)")
  [ ${#missing[@]} -eq 0 ] || fail "missing: $(printf '%s; ' "${missing[@]}")"
}

# The newest that the packages brought; none of them is in the PATH.
postgres_programs() { find /usr/lib/postgresql -maxdepth 2 -name bin 2>/dev/null | sort -V | tail -1; }

install_packages() {
  local packages=(containerd runc containernetworking-plugins nftables iproute2 conntrack buildah busybox-static openssl jq curl musl-tools nginx-light postgresql)
  if ! dpkg --status "${packages[@]}" >/dev/null 2>&1; then
    say "CI: installing ${packages[*]}"
    (
      # Programs are wanted, not services: Debian starts what it installs unless this file says no.
      policy=/usr/sbin/policy-rc.d
      [ -e $policy ] || { trap 'rm -f $policy' EXIT && printf '#!/bin/sh\nexit 101\n' >$policy && chmod +x $policy; }
      export DEBIAN_FRONTEND=noninteractive
      apt-get update -qq && apt-get install -qq -y --no-install-recommends "${packages[@]}" >/dev/null
    )
  fi
  grep -qx "$musl" <<<"$(rustup target list --installed)" || rustup --quiet target add "$musl"
}
