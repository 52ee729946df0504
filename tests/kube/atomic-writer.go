// Writes projected volumes with the kubelet's own AtomicWriter, for tests of what reads them.
//
//	atomic-writer FOLDER    for each line of its standard input, a JSON object of file names and contents: writes that as the volume's next generation, and says "written"
package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"

	"k8s.io/kubernetes/pkg/volume/util"
)

func main() {
	writer, err := util.NewAtomicWriter(os.Args[1], "test")
	if err != nil {
		panic(err)
	}
	for input := json.NewDecoder(os.Stdin); ; {
		var files map[string]string
		if err := input.Decode(&files); errors.Is(err, io.EOF) {
			return
		} else if err != nil {
			panic(err)
		}
		payload := map[string]util.FileProjection{}
		for name, text := range files {
			payload[name] = util.FileProjection{Data: []byte(text), Mode: 0o440}
		}
		if err := writer.Write(payload, nil); err != nil {
			panic(err)
		}
		fmt.Println("written")
	}
}
