# Images without a registry: made here with buildah, handed to containerd as archives.

# The helper images, once for each binary; archives are kept beside the Kubernetes binaries.
helper_images() {
  local cache=${XDG_CACHE_HOME:-$HOME/.cache}/podmint/node name
  mkdir -p "$cache"
  [ "$cache/pause" -nt "$here/pause.go" ] || CGO_ENABLED=0 go build -trimpath -ldflags "-s -w" -o "$cache/pause" "$here/pause.go"
  for name in pause coredns agnhost; do
    local binary=$bin/$name
    [ $name != pause ] || binary=$cache/pause
    [ "$cache/$name.tar" -nt "$binary" ] && [ "$cache/$name.tar" -nt "$here/images.sh" ] || archive "$name" "$binary" "$cache/$name.tar"
    ln -sf "$cache/$name.tar" "$dir/images/$name.tar"
  done
}

# One static binary on an empty base, as podmint.dev/node/NAME:1; and for agnhost the few commands that upstream's tests take from its shell.
archive() {
  local work=$dir/tmp/image-$1 command
  mkdir -p "$work/root/bin"
  cp "$2" "$work/root/$1"
  if [ "$1" = agnhost ]; then
    cp "$(command -v busybox)" "$work/root/bin/busybox"
    for command in sh cat sleep; do ln -s busybox "$work/root/bin/$command"; done
  fi
  printf 'FROM scratch\nCOPY root /\nUSER 65532:65532\nENTRYPOINT ["/%s"]\n' "$1" >"$work/Containerfile"
  "$root/deploy/build-image" "$work" "podmint.dev/node/$1:1" "$3" >/dev/null
  rm -rf "$work"
}

import_images() {
  local archive
  until_true 90 "containerd did not answer: $(tail -2 "$dir/log/containerd" 2>/dev/null)" inside ctr version
  for archive in "$dir"/images/*.tar; do
    inside ctr -n k8s.io images import "$archive" >>"$dir/log/images" 2>&1 || fail "containerd refused $archive: $(tail -2 "$dir/log/images")"
  done
}
