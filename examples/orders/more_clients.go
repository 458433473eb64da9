// Places orders by net/http. Its transport sends a request with an Idempotency-Key again by itself if a
// connection that it had kept open breaks before the answer, and no other POST; the rest is for the loop
// around it, with the same key. Run by retrying_clients.py:
//
//	go run more_clients.go URL MILLISECONDS < lines of "key<tab>order"
//
// Prints a line for each: "status<tab>how often it was asked again<tab>answer".
package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
	"time"
)

func main() {
	transportAlone()
	url := os.Args[1]
	patience, err := strconv.Atoi(os.Args[2])
	check(err)
	client := &http.Client{Timeout: time.Duration(patience) * time.Millisecond}
	var placing []chan string
	lines := bufio.NewScanner(os.Stdin)
	for lines.Scan() {
		key, order, _ := strings.Cut(lines.Text(), "\t")
		placed := make(chan string)
		placing = append(placing, placed)
		go func() { placed <- place(client, url, key, order) }()
	}
	for _, placed := range placing {
		fmt.Println(<-placed)
	}
}

func place(client *http.Client, url, key, order string) string {
	for again := 0; again < 12; again++ {
		wait := 100 * time.Millisecond
		answer, body, err := post(client, url, key, order)
		if err == nil {
			if answer.Header.Get("Idempotency-Retryable") != "true" {
				return fmt.Sprintf("%d\t%d\t%s", answer.StatusCode, again, strings.TrimSpace(body))
			}
			seconds, _ := strconv.Atoi(answer.Header.Get("Retry-After"))
			wait = time.Duration(seconds) * time.Second
		}
		time.Sleep(wait)
	}
	log.Fatal("no answer after 12 tries")
	return ""
}

func post(client *http.Client, url, key, order string) (*http.Response, string, error) {
	request, err := http.NewRequest("POST", url, strings.NewReader(order))
	check(err)
	if key != "" {
		request.Header.Set("Idempotency-Key", `"`+key+`"`)
	}
	answer, err := client.Do(request)
	if err != nil {
		return nil, "", err
	}
	defer answer.Body.Close()
	body, err := io.ReadAll(answer.Body)
	return answer, string(body), err
}

// What the transport does without a loop, if the second request on a connection gets no answer.
func transportAlone() {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	check(err)
	go func() {
		for {
			connection, err := listener.Accept()
			check(err)
			answers := 1
			go func() {
				requests := bufio.NewReader(connection)
				for ; answers >= 0; answers-- {
					request, err := http.ReadRequest(requests)
					if err != nil {
						break
					}
					io.Copy(io.Discard, request.Body)
					if answers > 0 {
						io.WriteString(connection, "HTTP/1.1 201 Created\r\nContent-Length: 2\r\n\r\nok")
					}
				}
				connection.Close()
			}()
		}
	}()
	url := "http://" + listener.Addr().String()
	for _, key := range []string{"", "k"} {
		// A connection of its own, which stays open after the first answer.
		client := &http.Client{Transport: &http.Transport{}}
		_, _, err = post(client, url, key, "first")
		check(err)
		_, _, err = post(client, url, key, "second")
		if (err == nil) != (key != "") {
			log.Fatalf("the transport retries otherwise than it is said to: key %q, %v", key, err)
		}
	}
}

func check(err error) {
	if err != nil && !errors.Is(err, net.ErrClosed) {
		log.Fatal(err)
	}
}
