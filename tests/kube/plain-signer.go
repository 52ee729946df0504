// The signer that a Go programmer would write in an afternoon, for the benchmark to be compared with: client-go without its throttle, an
// informer, a work queue, sixteen workers. It proves possession of the key and signs; it looks at no pod, keeps no log and checks nothing
// of what it made.
//
//	plain-signer KUBECONFIG SIGNER_NAME
package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net/url"
	"os"
	"time"

	certificates "k8s.io/api/certificates/v1"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/client-go/util/workqueue"
)

const (
	workers  = 16
	lifetime = 24 * time.Hour
)

func main() {
	config := must(clientcmd.BuildConfigFromFlags("", os.Args[1]))
	config.QPS = -1
	client := must(kubernetes.NewForConfig(config))
	ca := newAuthority()

	name := fields.OneTermEqualSelector("spec.signerName", os.Args[2]).String()
	factory := informers.NewSharedInformerFactoryWithOptions(client, 0, informers.WithTweakListOptions(func(options *meta.ListOptions) {
		options.FieldSelector = name
	}))
	informer := factory.Certificates().V1().PodCertificateRequests()
	queue := workqueue.NewTypedRateLimitingQueue(workqueue.DefaultTypedControllerRateLimiter[cache.ObjectName]())
	must(informer.Informer().AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc: func(object any) { queue.Add(cache.MetaObjectToName(object.(meta.Object))) },
	}))
	factory.Start(context.Background().Done())
	factory.WaitForCacheSync(context.Background().Done())

	for range workers {
		go func() {
			for {
				key, _ := queue.Get()
				request, err := informer.Lister().PodCertificateRequests(key.Namespace).Get(key.Name)
				if err == nil {
					err = answer(client, ca, request)
				}
				if err == nil {
					queue.Forget(key)
				} else {
					queue.AddRateLimited(key)
				}
				queue.Done(key)
			}
		}()
	}
	select {}
}

func answer(client kubernetes.Interface, ca authority, request *certificates.PodCertificateRequest) error {
	if len(request.Status.Conditions) > 0 {
		return nil
	}
	csr, err := x509.ParseCertificateRequest(request.Spec.StubPKCS10Request)
	if err != nil {
		return err
	}
	if err := csr.CheckSignature(); err != nil {
		return err
	}
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
	if err != nil {
		return err
	}
	now := time.Now().Truncate(time.Second)
	// Five minutes are too many: the API server takes less, and says so to nobody who only tries again.
	begin := now.Add(-time.Minute)
	end, refresh := begin.Add(lifetime), now.Add(lifetime/2)
	der, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{
		SerialNumber: serial,
		NotBefore:    begin,
		NotAfter:     end,
		KeyUsage:     x509.KeyUsageDigitalSignature,
		ExtKeyUsage:  []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
		URIs:         []*url.URL{{Scheme: "spiffe", Host: "bench.example.org", Path: "/ns/" + request.Namespace + "/sa/" + request.Spec.ServiceAccountName}},
	}, ca.certificate, csr.PublicKey, ca.key)
	if err != nil {
		return err
	}
	answered := request.DeepCopy()
	answered.Status = certificates.PodCertificateRequestStatus{
		Conditions:       []meta.Condition{{Type: certificates.PodCertificateRequestConditionTypeIssued, Status: meta.ConditionTrue, Reason: "Issued", Message: "issued", LastTransitionTime: meta.NewTime(now)}},
		CertificateChain: string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})),
		NotBefore:        &meta.Time{Time: begin},
		BeginRefreshAt:   &meta.Time{Time: refresh},
		NotAfter:         &meta.Time{Time: end},
	}
	_, err = client.CertificatesV1().PodCertificateRequests(request.Namespace).UpdateStatus(context.Background(), answered, meta.UpdateOptions{})
	return err
}

type authority struct {
	key         *ecdsa.PrivateKey
	certificate *x509.Certificate
}

func newAuthority() authority {
	key := must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))
	template := &x509.Certificate{
		SerialNumber:          big.NewInt(1),
		Subject:               pkix.Name{CommonName: "plain signer"},
		NotBefore:             time.Now().Add(-time.Hour),
		NotAfter:              time.Now().Add(48 * time.Hour),
		KeyUsage:              x509.KeyUsageCertSign,
		BasicConstraintsValid: true,
		IsCA:                  true,
	}
	der := must(x509.CreateCertificate(rand.Reader, template, template, key.Public(), key))
	return authority{key, must(x509.ParseCertificate(der))}
}

func must[T any](value T, err error) T {
	if err != nil {
		panic(err)
	}
	return value
}
