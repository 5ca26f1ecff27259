// Command gokit-sd signs an instance in as go-kit's registrars do, keeps it, and signs it out
// again when its standard input ends:
//
//	gokit-sd etcd  URL KEY VALUE       with a lease
//	gokit-sd etcd2 URL KEY VALUE       with a TTL
//	gokit-sd zk    HOST:PORT PATH NAME VALUE
//	gokit-sd eureka URL APP HOST PORT
//
// It prints one line, "registered", once it is. Killed, it leaves what its registrar leaves.
package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"strconv"
	"time"

	"github.com/go-kit/kit/sd"
	kitetcd2 "github.com/go-kit/kit/sd/etcd"
	kitetcd "github.com/go-kit/kit/sd/etcdv3"
	kiteureka "github.com/go-kit/kit/sd/eureka"
	kitzk "github.com/go-kit/kit/sd/zk"
	"github.com/go-kit/log"
	"github.com/hudl/fargo"
)

func main() {
	arguments := map[string]int{"etcd": 3, "etcd2": 3, "zk": 4, "eureka": 4}
	if len(os.Args) < 2 || arguments[os.Args[1]] == 0 || len(os.Args)-2 != arguments[os.Args[1]] {
		fail("see the comment at the top of main.go")
	}
	registrar := registrarOf(os.Args[1], os.Args[2:], log.NewLogfmtLogger(os.Stderr))
	registrar.Register()
	fmt.Println("registered")
	_, _ = io.Copy(io.Discard, os.Stdin)
	registrar.Deregister()
}

func registrarOf(kind string, arguments []string, logger log.Logger) sd.Registrar {
	url := arguments[0]
	switch kind {
	case "etcd":
		client, err := kitetcd.NewClient(context.Background(), []string{url}, kitetcd.ClientOptions{
			DialTimeout: 5 * time.Second, DialKeepAlive: 3 * time.Second,
		})
		must(err)
		return kitetcd.NewRegistrar(client, kitetcd.Service{Key: arguments[1], Value: arguments[2]}, logger)
	case "etcd2":
		client, err := kitetcd2.NewClient(context.Background(), []string{url}, kitetcd2.ClientOptions{})
		must(err)
		ttl := kitetcd2.NewTTLOption(time.Second, 3*time.Second)
		return kitetcd2.NewRegistrar(client, kitetcd2.Service{Key: arguments[1], Value: arguments[2], TTL: ttl}, logger)
	case "zk":
		client, err := kitzk.NewClient([]string{url}, logger)
		must(err)
		return kitzk.NewRegistrar(client, kitzk.Service{Path: arguments[1], Name: arguments[2], Data: []byte(arguments[3])}, logger)
	default:
		port, err := strconv.Atoi(arguments[3])
		must(err)
		connection := fargo.NewConn(url)
		return kiteureka.NewRegistrar(&connection, &fargo.Instance{
			HostName:       arguments[2],
			Port:           port,
			App:            arguments[1],
			IPAddr:         arguments[2],
			VipAddress:     arguments[1],
			Status:         fargo.UP,
			DataCenterInfo: fargo.DataCenterInfo{Name: fargo.MyOwn},
			LeaseInfo:      fargo.LeaseInfo{RenewalIntervalInSecs: 1, DurationInSecs: 3},
		}, logger)
	}
}

func must(err error) {
	if err != nil {
		fail(err.Error())
	}
}

func fail(reason string) {
	fmt.Fprintln(os.Stderr, "gokit-sd: "+reason)
	os.Exit(1)
}
