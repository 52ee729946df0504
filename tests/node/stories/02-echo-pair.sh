# the echo pair talks mTLS by Service name, each side naming the other

echo_says() { grep -qF "$2" <<<"$(kube -n echo logs "deployment/$1" 2>/dev/null)"; }

! kube get namespace echo >/dev/null 2>&1 || fail "the echo pair is there already"
kube apply -f "$root/deploy/examples/echo.yaml" >/dev/null
for side in server client; do
  kube -n echo rollout status "deployment/echo-$side" --timeout 180s >/dev/null || fail "echo-$side did not start"
done
until_true 120 "the client does not name the server" echo_says echo-client "talking to spiffe://$trust_domain/ns/echo/sa/echo-server"
until_true 120 "the server does not name the client" echo_says echo-server "talking to spiffe://$trust_domain/ns/echo/sa/echo-client"
