// Command vcsim starts the vCenter simulator of the govmomi project (Debian ships it as a library) as one site:
//
//	vcsim -instance UUID -user NAME -password-env VARIABLE [-cert PEM -key PEM] [-hosts 2]
//
// It prints one line of JSON, {"port": ..., "datastores": {name: folder}}, when it listens on loopback, and ends when
// its standard input does, so that it never outlives a test. Beside the API it answers /drsim/host?name=&state=, which
// sets the connection state of a host: a failure as vCenter reports it.
package main

import (
	"crypto/tls"
	"encoding/json"
	"flag"
	"io"
	"log"
	"net/http"
	"net/url"
	"os"
	"strconv"

	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/mo"
	"github.com/vmware/govmomi/vim25/types"
)

func main() {
	m := simulator.VPX()
	m.Host, m.Pool, m.Machine = 0, 0, 1
	instance := flag.String("instance", "", "about.instanceUuid; the simulator's own is the same everywhere")
	user := flag.String("user", "", "who is let in")
	secret := flag.String("password-env", "", "the environment variable with the password")
	cert := flag.String("cert", "", "PEM certificate; without it plain HTTP")
	key := flag.String("key", "", "PEM key")
	flag.IntVar(&m.ClusterHost, "hosts", 2, "hosts of the cluster")
	flag.Parse()
	log.SetOutput(io.Discard)

	m.ServiceContent.About.InstanceUuid = *instance
	if err := m.Create(); err != nil {
		fail(err)
	}
	m.Service.Listen = &url.URL{Host: "127.0.0.1:0", User: url.UserPassword(*user, os.Getenv(*secret))}
	m.Service.RegisterEndpoints = true
	if *cert != "" {
		pair, err := tls.LoadX509KeyPair(*cert, *key)
		if err != nil {
			fail(err)
		}
		m.Service.TLS = &tls.Config{Certificates: []tls.Certificate{pair}}
	}
	m.Service.ServeMux = http.NewServeMux()
	m.Service.Handle("/drsim/host", http.HandlerFunc(host))

	simulator.Map.AddHandler(tools{})

	server := m.Service.NewServer()
	port, _ := strconv.Atoi(server.URL.Port())
	stores := map[string]string{}
	for _, e := range simulator.Map.All("Datastore") {
		store := e.(*simulator.Datastore)
		stores[store.Name] = store.Info.GetDatastoreInfo().Url
	}
	_ = json.NewEncoder(os.Stdout).Encode(map[string]interface{}{"port": port, "datastores": stores})
	_, _ = io.Copy(io.Discard, os.Stdin)
	m.Remove()
}

// tools plays VMware Tools: they run as soon as a VM is on.
type tools struct{}

func (tools) Reference() types.ManagedObjectReference {
	return types.ManagedObjectReference{Type: "DrsimTools", Value: "tools"}
}
func (tools) PutObject(mo.Reference)                    {}
func (tools) RemoveObject(types.ManagedObjectReference) {}
func (tools) UpdateObject(o mo.Reference, c []types.PropertyChange) {
	for _, change := range c {
		if o.Reference().Type == "VirtualMachine" && change.Name == "runtime.powerState" {
			state := types.VirtualMachineToolsRunningStatusGuestToolsNotRunning
			if change.Val == types.VirtualMachinePowerStatePoweredOn {
				state = types.VirtualMachineToolsRunningStatusGuestToolsRunning
			}
			simulator.Map.Update(simulator.Map.Get(o.Reference()), []types.PropertyChange{{Name: "guest.toolsRunningStatus", Val: string(state)}})
		}
	}
}

func host(w http.ResponseWriter, r *http.Request) {
	for _, e := range simulator.Map.All("HostSystem") {
		h := e.(*simulator.HostSystem)
		if h.Name == r.URL.Query().Get("name") {
			state := types.HostSystemConnectionState(r.URL.Query().Get("state"))
			simulator.Map.Update(h, []types.PropertyChange{{Name: "runtime.connectionState", Val: state}})
			return
		}
	}
	http.NotFound(w, r)
}

func fail(err error) {
	_, _ = os.Stderr.WriteString(err.Error() + "\n")
	os.Exit(1)
}
