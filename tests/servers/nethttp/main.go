// Command nethttp asks by Go's client of HTTP, some requests side by side: GET, and POST with and without a length. It
// exits with 1 and a line on the first answer that is not the one that was to come. Its arguments are the URL in the
// clear and the one over TLS, the file of the authority that has signed for that, and how many requests each way gets.
package main

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"net/http"
	"os"
	"strconv"
	"sync"
	"sync/atomic"
)

const atOnce = 8

func main() {
	clear, secure := os.Args[1], os.Args[2]
	authority, err := os.ReadFile(os.Args[3])
	must(err)
	requests, err := strconv.ParseInt(os.Args[4], 10, 64)
	must(err)
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(authority)
	trusting := &tls.Config{RootCAs: pool}
	for _, way := range []struct {
		url   string
		major int
	}{{clear, 1}, {clear, 2}, {secure, 1}, {secure, 2}} {
		var protocols http.Protocols
		protocols.SetHTTP1(way.major == 1)
		protocols.SetHTTP2(way.major == 2)
		protocols.SetUnencryptedHTTP2(way.major == 2)
		transport := &http.Transport{
			TLSClientConfig: trusting.Clone(), Protocols: &protocols, MaxIdleConnsPerHost: atOnce,
		}
		asks(&http.Client{Transport: transport}, way.url, way.major, requests)
		transport.CloseIdleConnections()
	}
}

func asks(client *http.Client, url string, major int, requests int64) {
	var next atomic.Int64
	var asking sync.WaitGroup
	for range atOnce {
		asking.Go(func() {
			for number := next.Add(1); number <= requests; number = next.Add(1) {
				ask(client, url, major, number)
			}
		})
	}
	asking.Wait()
}

func ask(client *http.Client, url string, major int, number int64) {
	path := fmt.Sprintf("/cart/%d", number)
	body := bytes.Repeat([]byte{byte('a' + number%26)}, int(1000+number*7))
	var answer *http.Response
	var err error
	expected := body
	switch number % 4 {
	case 0:
		answer, err = client.Post(url+path, "text/plain", bytes.NewReader(body))
	case 1:
		// Of a reader that is no more than that it knows no length.
		answer, err = client.Post(url+path, "text/plain", io.MultiReader(bytes.NewReader(body)))
	default:
		answer, err = client.Get(url + path)
		expected = []byte(path)
	}
	must(err)
	defer answer.Body.Close()
	came, err := io.ReadAll(answer.Body)
	must(err)
	if answer.StatusCode != 200 || answer.ProtoMajor != major || !bytes.Equal(came, expected) {
		must(fmt.Errorf("%s %d: %s %s, %d bytes", url, number, answer.Proto, answer.Status, len(came)))
	}
}

func must(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
