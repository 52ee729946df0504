# Writes what the services of one machine are started with: settings, keys and certificates, configuration.

node=node-1
address=172.30.0.1

configure() {
  mkdir -p "$dir"/{etc,home,log,pid,hold,pki,tmp,cni,var-lib/kubelet,var-log,sysctl,images}
  printf 'node=%s\naddress=%s\nbin=%q\n' "$node" "$address" "$bin" >"$dir/settings"
  pki
  containerd_config
  kubelet_config
  kube_proxy_config
  # One host-local range. `ptp` and not `bridge`: every packet between pods passes the node's own routing, so that a Service
  # address works from pod to pod without br_netfilter, which not every kernel has.
  cat >"$dir/cni/10-node.conflist" <<EOF
{"cniVersion": "0.4.0", "name": "node", "plugins": [
  {"type": "ptp", "mtu": 1500, "ipam": {"type": "host-local", "dataDir": "/run/cni", "ranges": [[{"subnet": "10.244.0.0/24"}]], "routes": [{"dst": "0.0.0.0/0"}]}},
  {"type": "portmap", "capabilities": {"portMappings": true}}
]}
EOF
  # Pods ask the cluster's DNS alone; there is no world outside.
  echo "nameserver 127.0.0.1" >"$dir/etc/resolv.conf"
}

pki() (
  cd "$dir/pki"
  umask 077
  # Without a configuration of our own, Debian's makes every certificate a CA.
  printf '[req]\ndistinguished_name=dn\nprompt=no\n[dn]\n' >openssl.cnf
  openssl ecparam -name prime256v1 -genkey -noout -out ca.key
  openssl req -config openssl.cnf -x509 -new -key ca.key -days 30 -subj "/CN=node-test-ca" -out ca.crt \
    -addext basicConstraints=critical,CA:TRUE -addext keyUsage=critical,keyCertSign,cRLSign -addext subjectKeyIdentifier=hash
  openssl ecparam -name prime256v1 -genkey -noout -out service-account.key

  certificate apiserver /CN=kube-apiserver serverAuth \
    "subjectAltName=DNS:kubernetes,DNS:kubernetes.default,DNS:kubernetes.default.svc,DNS:kubernetes.default.svc.cluster.local,IP:10.96.0.1,IP:127.0.0.1,IP:$address"
  certificate kubelet-server "/CN=$node" serverAuth "subjectAltName=DNS:$node,IP:$address"
  certificate apiserver-kubelet /O=system:masters/CN=apiserver-kubelet clientAuth
  user admin /O=system:masters/CN=admin
  user controller-manager /CN=system:kube-controller-manager
  user scheduler /CN=system:kube-scheduler
  user kube-proxy /CN=system:kube-proxy
  user kubelet "/O=system:nodes/CN=system:node:$node"
  # The identity of a node that was stolen: nothing runs on it.
  user node-2 /O=system:nodes/CN=system:node:node-2
)

# certificate NAME SUBJECT USAGE [EXTENSION]
certificate() {
  openssl ecparam -name prime256v1 -genkey -noout -out "$1.key"
  openssl req -config openssl.cnf -x509 -new -key "$1.key" -CA ca.crt -CAkey ca.key -days 30 -subj "$2" -out "$1.crt" \
    -addext basicConstraints=critical,CA:FALSE -addext keyUsage=critical,digitalSignature -addext "extendedKeyUsage=$3" ${4:+-addext "$4"}
}

user() {
  certificate "$1" "$2" clientAuth
  cat >"$1.kubeconfig" <<EOF
apiVersion: v1
kind: Config
current-context: node
clusters: [{name: node, cluster: {server: "https://$address:6443", certificate-authority: "$PWD/ca.crt"}}]
users: [{name: "$1", user: {client-certificate: "$PWD/$1.crt", client-key: "$PWD/$1.key"}}]
contexts: [{name: node, context: {cluster: node, user: "$1"}}]
EOF
}

containerd_config() {
  cat >"$dir/etc/containerd.toml" <<EOF
version = 2
root = "/var/lib/containerd"
state = "/run/containerd"
disabled_plugins = ["io.containerd.snapshotter.v1.aufs", "io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.devmapper", "io.containerd.snapshotter.v1.zfs", "io.containerd.internal.v1.opt"]
[grpc]
  address = "/run/containerd/containerd.sock"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "podmint.dev/node/pause:1"
  # A machine without CAP_SYS_RESOURCE may not make a process less likely to be killed than its parent; runc would die.
  restrict_oom_score_adj = true
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "$cni_plugins"
    conf_dir = "$dir/cni"
  [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
    runtime_type = "io.containerd.runc.v2"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
      SystemdCgroup = false
EOF
}

kubelet_config() {
  cat >"$dir/etc/kubelet.yaml" <<EOF
apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
authentication: {anonymous: {enabled: false}, webhook: {enabled: true}, x509: {clientCAFile: $dir/pki/ca.crt}}
authorization: {mode: Webhook}
tlsCertFile: $dir/pki/kubelet-server.crt
tlsPrivateKeyFile: $dir/pki/kubelet-server.key
containerRuntimeEndpoint: unix:///run/containerd/containerd.sock
cgroupDriver: cgroupfs
cgroupRoot: /$group
failCgroupV1: false
failSwapOn: false
oomScoreAdj: 0
clusterDNS: [10.96.0.10]
clusterDomain: cluster.local
resolvConf: $dir/etc/resolv.conf
volumePluginDir: $dir/var-lib/volume-plugins
maxPods: 150
# The disk is the host's: how full it is, is not our business.
evictionHard: {imagefs.available: "0%", nodefs.available: "0%", nodefs.inodesFree: "0%", imagefs.inodesFree: "0%", memory.available: "0%"}
imageGCHighThresholdPercent: 100
imageGCLowThresholdPercent: 99
EOF
}

kube_proxy_config() {
  cat >"$dir/etc/kube-proxy.yaml" <<EOF
apiVersion: kubeproxy.config.k8s.io/v1alpha1
kind: KubeProxyConfiguration
mode: nftables
hostnameOverride: $node
clientConnection: {kubeconfig: $dir/pki/kube-proxy.kubeconfig}
clusterCIDR: 10.244.0.0/16
# nf_conntrack_max belongs to the whole kernel.
conntrack: {maxPerCore: 0, min: 0}
EOF
}
