package cli

import (
	"fmt"
	"io"
	"strings"
	"time"

	fleetv1 "github.com/ultrathink-pilot/trainyard/proto/gen/go/trainyard/fleet/v1"
)

func writeAgents(w io.Writer, agents []*fleetv1.Agent) error {
	if len(agents) == 0 {
		_, err := fmt.Fprintln(w, "no host has reported yet")
		return err
	}
	t := newTable("AGENT", "STATE", "DEVICE", "KIND", "MEMORY", "RESERVED", "ISOLATION", "JOBS", "SEEN").numbers(4, 5, 7, 8)
	for _, agent := range agents {
		state := enumText(agent.GetState().String(), "STATE_")
		if agent.GetStateReason() != "" {
			state += " (" + agent.GetStateReason() + ")"
		}
		seen := ageText(agent.GetLastContactTime(), time.Now())
		for i, d := range agent.GetDevices() {
			reserved := int64(0)
			if i < len(agent.GetReservedBytes()) {
				reserved = agent.GetReservedBytes()[i]
			}
			kind := d.GetKind()
			if !d.GetHealthy() {
				kind += " (quarantined: " + d.GetHealthReason() + ")"
			}
			name, jobs := agent.GetAgentName(), fmt.Sprint(len(agent.GetLeases()))
			if i > 0 {
				name, state, jobs, seen = "", "", "", ""
			}
			t.add(name, state, d.GetDeviceId(), kind, bytesText(d.GetMemoryBytes()), bytesText(reserved),
				enumText(d.GetIsolation().String(), "ISOLATION_"), jobs, seen)
		}
		if len(agent.GetDevices()) == 0 {
			t.add(agent.GetAgentName(), state, "none", "", "", "", "", fmt.Sprint(len(agent.GetLeases())), seen)
		}
	}
	return t.write(w)
}

// deviceSummary says in a few words what a fleet has: "2 × cpu-lane".
func deviceSummary(agents []*fleetv1.Agent) string {
	counts, order := map[string]int{}, []string{}
	for _, agent := range agents {
		for _, d := range agent.GetDevices() {
			if counts[d.GetKind()] == 0 {
				order = append(order, d.GetKind())
			}
			counts[d.GetKind()]++
		}
	}
	for i, kind := range order {
		order[i] = fmt.Sprintf("%d × %s", counts[kind], kind)
	}
	return strings.Join(order, ", ")
}
