package main

import (
	"log"

	kitconsul "github.com/go-kit/kit/sd/consul"
	kitlog "github.com/go-kit/log"
	"github.com/hashicorp/consul/api"
)

// example is what docs/getting-started.md shows: it is compiled here, and the tests of the documents
// compare it with the page.
func example(logger kitlog.Logger) {
	client, err := api.NewClient(api.DefaultConfig()) // 127.0.0.1:8500, or CONSUL_HTTP_ADDR
	if err != nil {
		log.Fatal(err)
	}
	registrar := kitconsul.NewRegistrar(kitconsul.NewClient(client), &api.AgentServiceRegistration{
		ID: "cart-7", Name: "cart", Address: "127.0.0.1", Port: 7007,
		Check: &api.AgentServiceCheck{HTTP: "http://127.0.0.1:7007/", Interval: "5s"},
	}, logger)
	registrar.Register()
	defer registrar.Deregister()
}

var _ = example
