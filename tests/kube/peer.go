// The other side of the client library's tests in Go: with crypto/tls and crypto/x509 alone ("std"), or with go-spiffe ("spiffe").
//
//	peer serve std|spiffe FOLDER ID [classical]           prints its address, then a line for each connection; ends with its standard input
//	peer dial  std|spiffe FOLDER ID ADDRESS [classical]   prints a line
//	peer verify FOLDER                                    for each folder in it: its name, and what std and spiffe say of the chain in it
//	peer bench std|spiffe FOLDER ID COUNT                 the CPU time of a handshake, both sides, in microseconds
//	peer facts FILE                                       for each certificate in it: what crypto/x509 reads
//
// FOLDER holds key.pem, chain.pem (the leaf first) and trust.pem. ID is the SPIFFE ID the other side must have. A line is the other side's ID, the key exchange and what
// it said, or "error" and why. "classical" offers no key exchange with ML-KEM.
package main

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/binary"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"syscall"
	"time"

	"github.com/spiffe/go-spiffe/v2/bundle/x509bundle"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/spiffetls/tlsconfig"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"
)

func main() {
	arguments := os.Args[2:]
	switch os.Args[1] {
	case "serve":
		serve(config(arguments[0], arguments[1], arguments[2], true, arguments[3:]))
	case "dial":
		dial(config(arguments[0], arguments[1], arguments[2], false, arguments[4:]), arguments[3])
	case "bench":
		bench(arguments[0], arguments[1], arguments[2], must(strconv.Atoi(arguments[3])))
	case "verify":
		verify(arguments[0])
	case "facts":
		facts(arguments[0])
	default:
		panic("unknown word " + os.Args[1])
	}
}

func config(kind, folder, peer string, server bool, rest []string) *tls.Config {
	var config *tls.Config
	switch kind {
	case "std":
		config = withoutSpiffe(folder, peer)
	case "spiffe":
		svid := must(x509svid.Load(file(folder, "chain.pem"), file(folder, "key.pem")))
		bundle := must(x509bundle.Load(svid.ID.TrustDomain(), file(folder, "trust.pem")))
		allowed := tlsconfig.AuthorizeID(spiffeid.RequireFromString(peer))
		if server {
			config = tlsconfig.MTLSServerConfig(svid, bundle, allowed)
		} else {
			config = tlsconfig.MTLSClientConfig(svid, bundle, allowed)
		}
	default:
		panic("unknown kind " + kind)
	}
	if slices.Contains(rest, "classical") {
		config.CurvePreferences = []tls.CurveID{tls.X25519}
	}
	return config
}

// withoutSpiffe verifies as a program does that has never heard of SPIFFE: a server by its DNS name, a client by its issuer. The ID is compared on top.
func withoutSpiffe(folder, peer string) *tls.Config {
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(must(os.ReadFile(file(folder, "trust.pem")))) {
		panic("no certificate in trust.pem")
	}
	return &tls.Config{
		Certificates: []tls.Certificate{must(tls.LoadX509KeyPair(file(folder, "chain.pem"), file(folder, "key.pem")))},
		RootCAs:      roots,
		ClientCAs:    roots,
		ClientAuth:   tls.RequireAndVerifyClientCert,
		ServerName:   "server.test",
		VerifyConnection: func(state tls.ConnectionState) error {
			if id := idOf(state); id != peer {
				return fmt.Errorf("the other side is %s, not %s", id, peer)
			}
			return nil
		},
	}
}

func serve(config *tls.Config) {
	listener := must(tls.Listen("tcp", "127.0.0.1:0", config))
	fmt.Println(listener.Addr())
	go func() {
		io.Copy(io.Discard, os.Stdin)
		os.Exit(0)
	}()
	for {
		connection := must(listener.Accept())
		fmt.Println(converse(connection.(*tls.Conn)))
	}
}

func dial(config *tls.Config, address string) {
	connection, err := net.DialTimeout("tcp", address, 10*time.Second)
	if err != nil {
		panic(err)
	}
	fmt.Println(converse(tls.Client(connection, config)))
}

// converse sends a line, reads one, and says whom it talked to.
func converse(connection *tls.Conn) string {
	defer connection.Close()
	connection.SetDeadline(time.Now().Add(10 * time.Second))
	said, err := func() (string, error) {
		if err := connection.HandshakeContext(context.Background()); err != nil {
			return "", err
		}
		if _, err := io.WriteString(connection, "hello from Go\n"); err != nil {
			return "", err
		}
		return bufio.NewReader(connection).ReadString('\n')
	}()
	if err != nil {
		return fmt.Sprintf("error %v", err)
	}
	state := connection.ConnectionState()
	return fmt.Sprintf("%s %s %s", idOf(state), state.CurveID, said[:len(said)-1])
}

// bench makes handshakes in memory, one after the other, as the library's own benchmark does.
func bench(kind, folder, peer string, count int) {
	server, client := config(kind, folder, peer, true, nil), config(kind, folder, peer, false, nil)
	server.SessionTicketsDisabled = true
	client.ServerName = "till.test"
	before := cpu()
	for range count {
		near, far := net.Pipe()
		done := make(chan error)
		go func() { done <- tls.Server(near, server).Handshake() }()
		if err := errors.Join(tls.Client(far, client).Handshake(), <-done); err != nil {
			panic(err)
		}
		near.Close()
	}
	fmt.Printf("%.1f\n", float64((cpu()-before).Nanoseconds())/1e3/float64(count))
}

func cpu() time.Duration {
	var usage syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &usage); err != nil {
		panic(err)
	}
	return time.Duration(usage.Utime.Nano() + usage.Stime.Nano())
}

func idOf(state tls.ConnectionState) string {
	if len(state.PeerCertificates) == 0 || len(state.PeerCertificates[0].URIs) != 1 {
		return "nobody"
	}
	return state.PeerCertificates[0].URIs[0].String()
}

func verify(folder string) {
	for _, home := range must(filepath.Glob(filepath.Join(folder, "*"))) {
		fmt.Println(filepath.Base(home), word(verifyWithoutSpiffe(home)), word(verifyWithSpiffe(home)))
	}
}

func word(err error) string {
	if err != nil {
		return "refuse"
	}
	return "accept"
}

// verifyWithoutSpiffe does what crypto/tls does with a client's chain.
func verifyWithoutSpiffe(home string) error {
	chain, err := certificates(file(home, "chain.pem"))
	if err != nil {
		return err
	}
	options := x509.VerifyOptions{
		Roots:         x509.NewCertPool(),
		Intermediates: x509.NewCertPool(),
		KeyUsages:     []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}
	options.Roots.AppendCertsFromPEM(must(os.ReadFile(file(home, "trust.pem"))))
	for _, one := range chain[1:] {
		options.Intermediates.AddCert(one)
	}
	_, err = chain[0].Verify(options)
	return err
}

func verifyWithSpiffe(home string) error {
	chain, err := certificates(file(home, "chain.pem"))
	if err != nil {
		return err
	}
	domain := spiffeid.RequireTrustDomainFromString("prod.example.org")
	_, _, err = x509svid.Verify(chain, must(x509bundle.Load(domain, file(home, "trust.pem"))))
	return err
}

func certificates(path string) ([]*x509.Certificate, error) {
	rest := must(os.ReadFile(path))
	var found []*x509.Certificate
	for {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			return found, nil
		}
		one, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, err
		}
		found = append(found, one)
	}
}

// facts reads certificates, each after its length in four bytes. Serial, notBefore, notAfter, CA, path length, key usage bits, URI names, key identifiers.
func facts(path string) {
	input := bufio.NewReader(must(os.Open(path)))
	output := bufio.NewWriter(os.Stdout)
	defer output.Flush()
	for {
		var length uint32
		if err := binary.Read(input, binary.BigEndian, &length); errors.Is(err, io.EOF) {
			return
		}
		der := make([]byte, length)
		must(io.ReadFull(input, der))
		one, err := x509.ParseCertificate(der)
		if err != nil {
			fmt.Fprintln(output, "refuse")
			continue
		}
		pathLength := "-"
		if one.MaxPathLen > 0 || one.MaxPathLenZero {
			pathLength = fmt.Sprint(one.MaxPathLen)
		}
		fmt.Fprintf(output, "%x %d %d %t %s %d %d [%x] [%x]\n", one.SerialNumber, max(one.NotBefore.Unix(), 0), max(one.NotAfter.Unix(), 0), one.IsCA, pathLength,
			one.KeyUsage&(x509.KeyUsageDigitalSignature|x509.KeyUsageCertSign|x509.KeyUsageCRLSign), len(one.URIs), one.SubjectKeyId, one.AuthorityKeyId)
	}
}

func file(folder, name string) string {
	return filepath.Join(folder, name)
}

func must[T any](value T, err error) T {
	if err != nil {
		panic(err)
	}
	return value
}
