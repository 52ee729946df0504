# nginx and PostgreSQL, from packages and as the recipes say, are verified by Service name, know their callers, and take up new certificates

# The programs are the node's, for no image has them. All else is the pod's: network, files, group.
namespace story-recipes
for name in web db caller; do kube -n story-recipes create serviceaccount $name >/dev/null; done
for name in web db; do kube -n story-recipes create service clusterip $name --tcp=1 >/dev/null; done
pod web account=web signer_name=podmint.dev/named | apply story-recipes
# PostgreSQL's programs want a key that is theirs alone: one user, and no fsGroup.
for name in db caller; do pod $name account=$name user=65534 group=none signer_name=podmint.dev/named | apply story-recipes; done
at() { echo "$dir/tmp/recipes/$1"; }
for name in web db caller; do
  running story-recipes $name
  mkdir -p "$(at $name)"
  inside mount --bind "$(volume_of story-recipes $name)" "$(at $name)"
done
# in_pod POD COMMAND …   as a user that is not root, and with the group of web
in_pod() {
  local id
  id=$(kube -n story-recipes get pod "$1" -o jsonpath='{.status.containerStatuses[0].containerID}')
  shift
  inside nsenter --target "$(inside ctr -n k8s.io tasks ls | awk -v id="${id#containerd://}" '$1 == id { print $2 }')" --net \
    setpriv --reuid=65534 --regid=65534 --groups=65532 "$@"
}
scratch() { mkdir -p "$dir/tmp/$1" && chown 65534 "$dir/tmp/$1" && echo "$dir/tmp/$1"; }
# recipe NAME LANGUAGE   prints the lines of docs/recipes.md, with the pod's folder in the place of the container's
recipe() {
  sed -n "/^## $1\$/,/^## /p" "$root/docs/recipes.md" | sed -n "/^\`\`\`$2\$/,/^\`\`\`\$/{/^\`\`\`/d;p}" | sed "s#/identity/#$(at "$3")/#g; s#/trust/roots.pem#$(at "$3")/trust.pem#g"
}
address() { kube -n story-recipes get pod "$1" -o jsonpath='{.status.podIP}'; }
serial_in() { inside openssl x509 -in "$1" -noout -serial; }

# --- nginx
work=$(scratch nginx)
{
  echo "daemon off; worker_processes 1; pid $work/pid; error_log $work/error.log; events {}"
  echo "http { access_log off; $(for kind in client_body proxy fastcgi uwsgi scgi; do echo "${kind}_temp_path $work/$kind;"; done)"
  recipe nginx nginx web | sed 's#^}$#    location / { return 200 "$ssl_client_verify $ssl_client_s_dn"; }\n}#'
  echo "}"
} >"$work/nginx.conf"
in_pod web "$(PATH=$PATH:/usr/sbin command -v nginx)" -c "$work/nginx.conf" -e "$work/error.log" -p "$work" >"$work/said" 2>&1 &
# ask [ARGUMENT …]   speaks to nginx as the caller's roots and the Service's name allow
ask() { printf 'GET / HTTP/1.0\r\n\r\n' | inside timeout 10 openssl s_client -quiet -verify_return_error -CAfile "$(at caller)/trust.pem" -verify_hostname web.story-recipes.svc -connect "$(address web):8443" "$@" 2>&1; }
as_caller=(-cert "$(at caller)/bundle.pem" -cert_chain "$(at caller)/bundle.pem" -key "$(at caller)/bundle.pem")
admitted() { grep -q '^SUCCESS CN=story-recipes/caller$' <<<"$(ask "${as_caller[@]}")"; }
until_true 60 "nginx does not admit the caller" admitted
said=$(ask "${as_caller[@]}" -verify_hostname web.other.svc) || true
grep -qi 'hostname mismatch' <<<"$said" || fail "nginx is verified by a name that is not its own: $said"
said=$(ask) || true
grep -q 'No required SSL certificate was sent' <<<"$said" || fail "nginx says to a caller without a certificate: $said"

# --- PostgreSQL
postgres=$(postgres_programs)
work=$(scratch postgres)
in_pod db "$postgres/initdb" --pgdata "$work/data" --username postgres --auth trust >"$work/said" 2>&1 || fail "initdb: $(tail -2 "$work/said")"
recipe PostgreSQL conf db >>"$work/data/postgresql.conf"
{ echo 'local all postgres trust' && recipe PostgreSQL hba db; } >"$work/data/pg_hba.conf"
in_pod db "$postgres/postgres" -D "$work/data" -h 0.0.0.0 -k "$work" >"$work/said" 2>&1 &
until_true 60 "PostgreSQL does not start: $(tail -2 "$work/said")" inside "$postgres/psql" -Xh "$work" -U postgres -c 'create role "story-recipes/caller" superuser login'
sql() { # STATEMENT [PARAMETER …]   as the role that is called like the caller
  local statement=$1
  shift
  in_pod caller env HOME="$work" "$postgres/psql" -XAtc "$statement" \
    "host=db.story-recipes.svc hostaddr=$(address db) dbname=postgres user=story-recipes/caller sslmode=verify-full sslrootcert=$(at caller)/trust.pem $*" 2>&1
}
as_client="sslcert=$(at caller)/bundle.pem sslkey=$(at caller)/bundle.pem"
met() { sql 'select client_serial from pg_stat_ssl where pid = pg_backend_pid()' "$as_client"; }
said=$(met) || true
grep -qE '^[0-9]+$' <<<"$said" || fail "PostgreSQL does not admit the caller: $said"
for other in "" "$as_client user=postgres" "$as_client host=db.other.svc"; do
  ! said=$(sql 'select 1' $other) || fail "PostgreSQL takes '$other'"
  case $other:$said in
    :*'requires a valid client certificate'* | *postgres:*'certificate authentication failed'* | *db.other.svc:*'does not match host name'*) ;;
    *) fail "PostgreSQL refuses '$other' for another reason: $said" ;;
  esac
done

# --- All three get other keys and certificates, and nobody starts anything anew but the kubelet.
served() { inside timeout 10 openssl s_client -connect "$(address "$1"):$2" "${@:3}" </dev/null 2>/dev/null | openssl x509 -noout -serial; }
serves_its_own() { [ "$(served "$@")" = "$(serial_in "$(at "$1")/bundle.pem")" ]; }
serves_its_own web 8443 || fail "nginx serves $(served web 8443), which is not in its file"
serves_its_own db 5432 -starttls postgres || fail "PostgreSQL serves $(served db 5432 -starttls postgres), which is not in its file"
serials() { for name in web db caller; do serial_in "$(at $name)/bundle.pem"; done; }
before=$(serials) met_before=$(met)
restart kubelet
rekeyed() { serials | all_new 3 "$before"; }
until_true 180 "not every pod got another certificate" rekeyed
serves_its_own web 8443 || fail "nginx does not take up the new certificate by itself"
admitted || fail "nginx does not admit the caller with its new certificate: $(ask "${as_caller[@]}" | tail -1)"
[ "$(sql 'select pg_reload_conf()' "$as_client")" = t ] || fail "PostgreSQL does not reload"
until_true 60 "PostgreSQL does not take up the new certificate when it is told to" serves_its_own db 5432 -starttls postgres
[ "$(met)" != "$met_before" ] || fail "PostgreSQL did not meet the caller's new certificate"

inside kill "$(cat "$dir/tmp/nginx/pid")" "$(head -1 "$dir/tmp/postgres/data/postmaster.pid")"
for name in web db caller; do inside umount "$(at $name)"; done
gone story-recipes
