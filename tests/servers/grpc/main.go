// Command grpc is both sides of gRPC's interoperability tests, as grpc-go has them:
//
//	grpc serve
//	grpc call ADDRESS CA CASE
//
// The server listens on a free port of this machine alone, and prints its address on one line. When its standard
// input ends it takes no more calls, finishes those that run, and ends. It has the service of its health, too.
//
// The client calls an address in the clear, or over TLS where a file of its authority is named and not "-". It ends
// with status 1 where a case fails.
//
// grpc-go's own programs would need all of its xDS to be built.
package main

import (
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health"
	healthgrpc "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/interop"
	testgrpc "google.golang.org/grpc/interop/grpc_testing"
)

func main() {
	var err error
	switch {
	case len(os.Args) == 2 && os.Args[1] == "serve":
		err = serve()
	case len(os.Args) == 5 && os.Args[1] == "call":
		err = call(os.Args[2], os.Args[3], os.Args[4])
	default:
		err = fmt.Errorf("see the comment at the top of main.go")
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "grpc:", err)
		os.Exit(1)
	}
}

func serve() error {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	server := grpc.NewServer()
	testgrpc.RegisterTestServiceServer(server, interop.NewTestServer())
	healthgrpc.RegisterHealthServer(server, health.NewServer())
	fmt.Println(listener.Addr())
	ended := make(chan struct{})
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin)
		server.GracefulStop()
		close(ended)
	}()
	if err := server.Serve(listener); err != nil {
		return err
	}
	<-ended
	return nil
}

func call(address, ca, name string) error {
	transport := insecure.NewCredentials()
	if ca != "-" {
		var err error
		if transport, err = credentials.NewClientTLSFromFile(ca, ""); err != nil {
			return err
		}
	}
	connection, err := grpc.NewClient(address, grpc.WithTransportCredentials(transport))
	if err != nil {
		return err
	}
	defer connection.Close()
	// A case that fails ends the process, and says why.
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	client := testgrpc.NewTestServiceClient(connection)
	if run, is := cases[name]; is {
		run(ctx, client)
		return nil
	}
	switch name {
	case "unimplemented_method":
		interop.DoUnimplementedMethod(ctx, connection)
	case "unimplemented_service":
		interop.DoUnimplementedService(ctx, testgrpc.NewUnimplementedServiceClient(connection))
	case "rpc_soak":
		// Too large to be kept for another attempt.
		soak(ctx, connection, address, 271828, 314159)
	case "small_rpc_soak":
		soak(ctx, connection, address, 2000, 2000)
	default:
		return fmt.Errorf("there is no case %s", name)
	}
	return nil
}

var cases = map[string]func(context.Context, testgrpc.TestServiceClient, ...grpc.CallOption){
	"empty_unary":                 interop.DoEmptyUnaryCall,
	"large_unary":                 interop.DoLargeUnaryCall,
	"client_streaming":            interop.DoClientStreaming,
	"server_streaming":            interop.DoServerStreaming,
	"ping_pong":                   interop.DoPingPong,
	"empty_stream":                interop.DoEmptyStream,
	"timeout_on_sleeping_server":  interop.DoTimeoutOnSleepingServer,
	"cancel_after_begin":          interop.DoCancelAfterBegin,
	"cancel_after_first_response": interop.DoCancelAfterFirstResponse,
	"status_code_and_message":     interop.DoStatusCodeAndMessage,
	"special_status_message":      interop.DoSpecialStatusMessage,
	"custom_metadata":             interop.DoCustomMetadata,
}

func soak(ctx context.Context, connection *grpc.ClientConn, address string, request, response int) {
	interop.DoSoakTest(ctx, interop.SoakTestConfig{
		RequestSize:                      request,
		ResponseSize:                     response,
		PerIterationMaxAcceptableLatency: time.Minute,
		OverallTimeout:                   time.Minute,
		ServerAddr:                       address,
		NumWorkers:                       4,
		Iterations:                       40,
		ChannelForTest:                   func() (*grpc.ClientConn, func()) { return connection, func() {} },
	})
}
