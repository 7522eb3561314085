// Command visitor is what the tests of the node run in pods: a server that says who it is, where a name leads, and keeps
// a note on a volume.
package main

import (
	"fmt"
	"log"
	"net"
	"net/http"
	"os"
	"strings"
)

func main() {
	if len(os.Args) > 2 && os.Args[1] == "get" {
		get(os.Args[2])
		return
	}
	http.HandleFunc("/name", func(w http.ResponseWriter, _ *http.Request) {
		host, _ := os.Hostname()
		fmt.Fprint(w, host)
	})
	http.HandleFunc("/resolve", func(w http.ResponseWriter, r *http.Request) {
		addresses, err := net.LookupHost(r.URL.Query().Get("name"))
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadGateway)
			return
		}
		fmt.Fprint(w, strings.Join(addresses, " "))
	})
	http.HandleFunc("/note", func(w http.ResponseWriter, r *http.Request) {
		if text := r.URL.Query().Get("text"); text != "" {
			if err := os.WriteFile("/data/note", []byte(text), 0o644); err != nil {
				http.Error(w, err.Error(), http.StatusInternalServerError)
				return
			}
		}
		text, err := os.ReadFile("/data/note")
		if err != nil {
			http.Error(w, err.Error(), http.StatusNotFound)
			return
		}
		w.Write(text)
	})
	log.Print("visitor listens")
	log.Fatal(http.ListenAndServe(":8080", nil))
}

// get prints the body that an address answers with: what `kubectl exec` runs in an image without a shell.
func get(url string) {
	answer, err := http.Get(url)
	if err != nil {
		log.Fatal(err)
	}
	defer answer.Body.Close()
	if _, err := os.Stdout.ReadFrom(answer.Body); err != nil {
		log.Fatal(err)
	}
}
