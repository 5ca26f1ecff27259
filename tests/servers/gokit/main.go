// Command gokit checks that a registry is a Consul to those who were written for Consul: go-kit's
// registrar and instancer, and the official Go client. It takes the registry's URL, and exits
// with 1 and one line on the first thing that is not as with Consul.
package main

import (
	"errors"
	"fmt"
	"os"
	"reflect"
	"time"

	"github.com/go-kit/kit/sd"
	kitconsul "github.com/go-kit/kit/sd/consul"
	"github.com/go-kit/log"
	"github.com/hashicorp/consul/api"
)

const patience = 10 * time.Second

func main() {
	if len(os.Args) != 2 {
		fail("usage: gokit URL")
	}
	client, err := api.NewClient(&api.Config{Address: os.Args[1], Token: os.Getenv("CONSUL_HTTP_TOKEN")})
	must("new client", err)
	discovered(client)
	reported(client)
	described(client)
	left(client)
	fmt.Println("ok")
}

// discovered goes through go-kit's integration test: nothing, then one instance, then nothing.
func discovered(client *api.Client) {
	kit := kitconsul.NewClient(client)
	logger := log.NewLogfmtLogger(os.Stderr)
	registration := &api.AgentServiceRegistration{
		ID:      "my-service-ID",
		Name:    "my-service-name",
		Tags:    []string{"alpha", "beta"},
		Port:    12345,
		Address: "my-address",
	}
	instancer := kitconsul.NewInstancer(kit, logger, registration.Name, registration.Tags, true)
	defer instancer.Stop()
	events := make(chan sd.Event, 16)
	instancer.Register(events)
	expect := func(when string, want ...string) {
		deadline := time.After(patience)
		var last []string
		for {
			select {
			case event := <-events:
				must(when, event.Err)
				if last = event.Instances; len(last) == len(want) && (len(want) == 0 || reflect.DeepEqual(last, want)) {
					return
				}
			case <-deadline:
				fail("go-kit, %s: instances are %v, not %v", when, last, want)
			}
		}
	}
	expect("before registration")
	registrar := kitconsul.NewRegistrar(kit, registration, logger)
	registrar.Register()
	expect("after registration", "my-address:12345")
	registrar.Deregister()
	expect("after deregistration")
}

// reported drives a TTL check, and watches the health of its service with blocking queries.
func reported(client *api.Client) {
	agent, health := client.Agent(), client.Health()
	must("register", agent.ServiceRegister(&api.AgentServiceRegistration{
		ID:      "ttl/1",
		Name:    "a name",
		Tags:    []string{"v1"},
		Port:    8080,
		Meta:    map[string]string{"zone": "a"},
		Weights: &api.AgentWeights{Passing: 7, Warning: 1},
		Check: &api.AgentServiceCheck{
			TTL:                            "1m",
			DeregisterCriticalServiceAfter: "10m",
		},
	}))
	const check = "service:ttl/1"
	statuses := []struct {
		set    func() error
		want   string
		output string
	}{
		{func() error { return agent.UpdateTTL(check, "fine", "pass") }, api.HealthPassing, "fine"},
		{func() error { return agent.WarnTTL(check, "hm") }, api.HealthWarning, "hm"},
		{func() error { return agent.FailTTL(check, "down") }, api.HealthCritical, "down"},
		{func() error { return agent.PassTTL(check, "up") }, api.HealthPassing, "up"},
	}
	entries, meta, err := health.Service("a name", "v1", false, nil)
	must("health", err)
	if len(entries) != 1 || entries[0].Checks.AggregatedStatus() != api.HealthCritical {
		fail("a TTL check does not begin critical: %+v", entries)
	}
	for _, status := range statuses {
		type answer struct {
			entries []*api.ServiceEntry
			meta    *api.QueryMeta
			err     error
		}
		answers, before := make(chan answer, 1), meta.LastIndex
		go func() {
			options := &api.QueryOptions{WaitIndex: before, WaitTime: time.Minute}
			entries, meta, err := health.Service("a name", "v1", false, options)
			answers <- answer{entries, meta, err}
		}()
		must("set "+status.want, status.set())
		select {
		case got := <-answers:
			must("blocking query", got.err)
			meta = got.meta
			if meta.LastIndex <= before {
				fail("the index went from %d to %d", before, meta.LastIndex)
			}
			if len(got.entries) != 1 || got.entries[0].Checks.AggregatedStatus() != status.want {
				fail("the status is not %s: %+v", status.want, got.entries)
			}
		case <-time.After(patience):
			fail("no answer to a blocking query after the status became %s", status.want)
		}
		checks, _, err := health.Checks("a name", nil)
		must("health checks", err)
		if len(checks) != 1 || checks[0].Output != status.output {
			fail("the output is not %q: %+v", status.output, checks)
		}
	}
}

// described reads the one instance in every way there is.
func described(client *api.Client) {
	agent := client.Agent()
	entries, read, err := client.Health().ServiceMultipleTags("a name", []string{"v1"}, true, nil)
	must("health", err)
	if read.LastIndex == 0 || !read.KnownLeader || read.LastContact != 0 {
		fail("the answer's headers are %+v", read)
	}
	if len(entries) != 1 {
		fail("%d passing instances, not 1", len(entries))
	}
	service, node := entries[0].Service, entries[0].Node
	if service.ID != "ttl/1" || service.Port != 8080 || service.Weights.Passing != 7 || service.Meta["zone"] != "a" {
		fail("the service is %+v", service)
	}
	name, err := agent.NodeName()
	must("agent self", err)
	if node.Node != name || node.Address == "" || node.Datacenter != "dc1" {
		fail("the node is %+v", node)
	}
	if serf := entries[0].Checks[0]; serf.CheckID != "serfHealth" || serf.Status != api.HealthPassing {
		fail("the first check is %+v", serf)
	}
	services, _, err := client.Catalog().Services(nil)
	must("catalog services", err)
	if !reflect.DeepEqual(services["a name"], []string{"v1"}) {
		fail("the catalog is %v", services)
	}
	listed, _, err := client.Catalog().Service("a name", "", nil)
	must("catalog service", err)
	if len(listed) != 1 || listed[0].ServicePort != 8080 || listed[0].Node != name {
		fail("the catalog lists %+v", listed)
	}
	nodes, _, err := client.Catalog().Nodes(nil)
	must("catalog nodes", err)
	if len(nodes) != 1 || nodes[0].Node != name {
		fail("the nodes are %+v", nodes)
	}
	held, err := agent.Services()
	must("agent services", err)
	if held["ttl/1"] == nil || held["ttl/1"].Service != "a name" {
		fail("the agent's services are %v", held)
	}
	one, meta, err := agent.Service("ttl/1", nil)
	must("agent service", err)
	if one.ContentHash == "" || one.ContentHash != meta.LastContentHash {
		fail("the content hash is %q and %q", one.ContentHash, meta.LastContentHash)
	}
	checks, err := agent.Checks()
	must("agent checks", err)
	if checks["service:ttl/1"] == nil || checks["service:ttl/1"].Type != "ttl" {
		fail("the agent's checks are %v", checks)
	}
	state, _, err := client.Health().State(api.HealthPassing, nil)
	must("health state", err)
	if len(state) != 2 {
		fail("%d checks are passing, not 2", len(state))
	}
	leader, err := client.Status().Leader()
	must("leader", err)
	peers, err := client.Status().Peers()
	must("peers", err)
	if leader == "" || !reflect.DeepEqual(peers, []string{leader}) {
		fail("the leader is %q of %v", leader, peers)
	}
}

// left goes through maintenance, another check, and the ways out.
func left(client *api.Client) {
	agent := client.Agent()
	aggregated := func(want string) {
		entries, _, err := client.Health().Service("a name", "", false, nil)
		must("health", err)
		if got := entries[0].Checks.AggregatedStatus(); got != want {
			fail("the status is %s, not %s", got, want)
		}
	}
	must("enable maintenance", agent.EnableServiceMaintenance("ttl/1", "because"))
	aggregated(api.HealthMaint)
	must("disable maintenance", agent.DisableServiceMaintenance("ttl/1"))
	aggregated(api.HealthPassing)

	must("register a check", agent.CheckRegister(&api.AgentCheckRegistration{
		ID: "second", Name: "second", ServiceID: "ttl/1",
		AgentServiceCheck: api.AgentServiceCheck{TTL: "1m"},
	}))
	aggregated(api.HealthCritical)
	must("deregister a check", agent.CheckDeregister("second"))
	aggregated(api.HealthPassing)

	must("deregister", agent.ServiceDeregister("ttl/1"))
	for what, err := range map[string]error{
		"service": agent.ServiceDeregister("ttl/1"),
		"check":   agent.CheckDeregister("second"),
	} {
		var status api.StatusError
		if !errors.As(err, &status) || status.Code != 404 {
			fail("deregistering an unknown %s: %v", what, err)
		}
	}
	services, err := agent.Services()
	must("agent services", err)
	if len(services) != 0 {
		fail("services that stay: %v", services)
	}
}

func must(what string, err error) {
	if err != nil {
		fail("%s: %v", what, err)
	}
}

func fail(format string, args ...any) {
	fmt.Fprintf(os.Stderr, format+"\n", args...)
	os.Exit(1)
}
