// Verifies client chains with Go's crypto/x509, as crypto/tls does: one line for each case, its name and "accept" or "refuse".
//
// A case is a folder with chain.pem (the leaf first) and trust.pem.
package main

import (
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"os"
	"path/filepath"
)

func main() {
	cases, err := filepath.Glob(filepath.Join(os.Args[1], "*"))
	if err != nil {
		panic(err)
	}
	for _, folder := range cases {
		verdict := "accept"
		if err := verify(folder); err != nil {
			verdict = "refuse"
		}
		fmt.Println(filepath.Base(folder), verdict)
	}
}

func verify(folder string) error {
	trust, err := os.ReadFile(filepath.Join(folder, "trust.pem"))
	if err != nil {
		panic(err)
	}
	rest, err := os.ReadFile(filepath.Join(folder, "chain.pem"))
	if err != nil {
		panic(err)
	}
	options := x509.VerifyOptions{
		Roots:         x509.NewCertPool(),
		Intermediates: x509.NewCertPool(),
		KeyUsages:     []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}
	options.Roots.AppendCertsFromPEM(trust)
	var leaf *x509.Certificate
	for {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			break
		}
		certificate, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return err
		}
		if leaf == nil {
			leaf = certificate
		} else {
			options.Intermediates.AddCert(certificate)
		}
	}
	_, err = leaf.Verify(options)
	return err
}
