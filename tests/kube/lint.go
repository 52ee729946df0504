// zlint for the stories: certificates in, what its RFC sources say of them out.
//
//	lint <CHAIN   reads PEM; prints "lints COUNT", then a line "INDEX STATUS LINT DETAILS" for each lint that a certificate does not pass
package main

import (
	"encoding/pem"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/zmap/zcrypto/x509"
	"github.com/zmap/zlint/v3"
	"github.com/zmap/zlint/v3/lint"
)

func main() {
	var sources lint.SourceList
	for _, source := range lint.GlobalRegistry().Sources() {
		if strings.HasPrefix(string(source), "RFC") {
			sources = append(sources, source)
		}
	}
	registry := must(lint.GlobalRegistry().Filter(lint.FilterOptions{IncludeSources: sources}))
	fmt.Println("lints", len(registry.Names()))
	rest := must(io.ReadAll(os.Stdin))
	for index := 0; ; index++ {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			return
		}
		certificate := must(x509.ParseCertificate(block.Bytes))
		for name, result := range zlint.LintCertificateEx(certificate, registry).Results {
			if result.Status > lint.Pass {
				fmt.Println(index, result.Status, name, strings.ReplaceAll(result.Details, "\n", " "))
			}
		}
	}
}

func must[T any](value T, err error) T {
	if err != nil {
		fmt.Fprintln(os.Stderr, "lint:", err)
		os.Exit(1)
	}
	return value
}
