# the library reads a kubelet's volume without a pause while the kubelet re-keys it: the old pair, then the new, nothing between

target=${CARGO_TARGET_DIR:-${XDG_CACHE_HOME:-$HOME/.cache}/podmint/target}
(cd "$root" && CARGO_TARGET_DIR=$target cargo build --quiet --release --workspace --bin podmint-check) || fail "podmint-check does not compile"
namespace story-library
pod reader | apply story-library
running story-library reader
volume=$(volume_of story-library reader)
old=$(serial_of story-library reader)

# One line for each reading: the exit code, and the serial number of the certificate that it took the key for.
work=$dir/tmp/library
mkdir -p "$work"
touch "$work/on"
trap 'rm -f "$work/on"' EXIT
# shellcheck disable=SC2016
inside sh -c '
  while [ -e "$1/on" ]; do
    if "$2" "$3" >"$1/said"; then code=0; else code=$?; fi
    [ $code -lt 2 ] || cat "$1/said" >>"$1/wrong"
    echo "$code $(sed -n "s/.* belongs to its certificate //p" "$1/said")"
  done' reader "$work" "$target/release/podmint-check" "$volume" >"$work/readings" &
reader=$!
restart kubelet
rekeyed() { serial_of story-library reader | all_new 1 "$old"; }
until_true 180 "the kubelet did not re-key the pod" rekeyed
new=$(serial_of story-library reader)
took_up() { grep -qi " 0*${new#serial=}$" "$work/readings"; }
until_true 60 "the library did not read the new certificate" took_up
rm "$work/on"
wait $reader

[ ! -e "$work/wrong" ] || fail "a reading found: $(head -3 "$work/wrong" | tr '\n' ' ')"
[ "$(cut -d' ' -f2 "$work/readings" | uniq | wc -l)" = 2 ] || fail "not the old certificate and then the new: $(cut -d' ' -f2 "$work/readings" | uniq | tr '\n' ' ')"
fact "readings across the re-keying: $(wc -l <"$work/readings"), of $(cut -d' ' -f1 "$work/readings" | sort -u | tr '\n' ' ')as exit codes"
gone story-library
