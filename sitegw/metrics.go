package sitegw

import (
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/holdfast-edge/holdfast/internal/ops"
	"github.com/holdfast-edge/holdfast/wire"
	"github.com/holdfast-edge/holdfast/wire/link"
)

// watched is what the operations port answers with.
func (g *Gateway) watched() ops.Config {
	r := ops.NewRegistry("holdfast-gateway", g.Version)
	r.MustRegister(collector{g})
	return ops.Config{Metrics: r, Healthy: g.Healthy, Ready: g.Ready, Log: g.Log}
}

func desc(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc("holdfast_gateway_"+name, help, labels, nil)
}

// The gateway's metrics. Names and labels are for dashboards and alerts: by adding.
var (
	descSessions     = desc("sessions", "Sessions of agents that are attached.")
	descAttached     = desc("sessions_total", "Sessions of agents that were admitted, by what they ran over: quic, or tcp where UDP does not get through.", "carrier")
	descOnline       = desc("devices_online", "Devices that count as online at this gateway, also those whose session is lost and that are not silent for long enough.")
	descHeartbeats   = desc("heartbeats_total", "Heartbeats of agents that were heard.")
	descProbes       = desc("probes_total", "Short sessions of agents that look for a nearer gateway and were answered.")
	descPassed       = desc("statements_passed_total", "Statements of devices that were taken into custody.")
	descRefused      = desc("statements_refused_total", "Statements of devices that were refused, here or by the core, by code. The device keeps what it has no receipt for.", "code")
	descEnrolled     = desc("enrollments_total", "Enrollments of devices that the core granted through this gateway.")
	descNotEnrolled  = desc("enrollments_refused_total", "Enrollments of devices that were refused, here or by the core, by code.", "code")
	descNotAdmitted  = desc("agents_refused_total", "Sessions of agents that were refused, by code.", "code")
	descTurnedAway   = desc("connections_refused_total", "Connections of agents that were refused before their handshake, by reason: rate, unfinished (too many handshakes under way), failures (of the source address), connections (too many held).", "reason")
	descUplink       = desc("uplink_connected", "Whether a core node has admitted this gateway: 1 or 0.")
	descUplinkNode   = desc("uplink_node_info", "The core node that the uplink is with, and what it runs over: always 1, its labels say which. Absent without an uplink.", "node", "address", "carrier")
	descRelayed      = desc("uplink_relayed", "Whether the uplink goes through a gateway of the same site: 1 or 0.")
	descRelays       = desc("relays", "Uplinks of gateways of the same site that this one carries.")
	descRelaysTotal  = desc("relays_total", "Uplinks of gateways of the same site that this one began to carry.")
	descRelayedBytes = desc("relayed_bytes_total", "Bytes that this gateway carried for others of its site, both ways.")
	descReconnects   = desc("uplink_reconnects_total", "Uplink sessions after the first one.")
	descPeriod       = desc("report_period_seconds", "Time between two digests of presence, as the core told it. Absent without an uplink.")
	descLeast        = desc("least_interval_seconds", "Least heartbeat interval that devices are told, so that their heartbeats keep to the target: of this gateway, or of the core for the whole fleet. 0: nobody is held back.", "by")
	descWitness      = desc("witness_seq", "Number of the newest record of the core's audit trail that a verified head vouched for; 0 before the first.")
	descMirror       = desc("mirror_devices", "Devices that are known to this gateway without the core, by whether they are of its own site.", "site")
	descMirrorWrong  = desc("mirror_refused_total", "What a core node told of devices, orders and gateways and the authority had not signed, or signed otherwise before.")
	descSpool        = desc("spool_records", "Statements, and spans of presence, on this gateway's disk that the core has not answered for.")
	descSpoolBytes   = desc("spool_bytes", "Disk that the spool takes; what is done with leaves it in segments.")
	descSpoolAge     = desc("spool_oldest_age_seconds", "Age of the oldest of them, by the gateway's clock. 0: none waits.")
	descSpoolHolding = desc("spool_holding", "Whether devices are asked to keep their statements, because there is no room: 1 or 0.")
	descSpoolFailed  = desc("spool_failures_total", "Times that a write or a sync of the spool failed, full disks included.")
	descNeverTaken   = desc("statements_refused_by_core_total", "Statements in custody that the core will never take. Their devices still hold them.")
	descLost         = desc("statements_lost_total", "Statements in custody that this gateway's disk lost. Their devices send them again where they have no receipt.")
	descSpansLost    = desc("spans_lost_total", "Spans of presence that were lost because the spool took none for too long. Their heartbeats are missing from timelines.")
	descSpansRefused = desc("spans_refused_total", "Spans of presence that the core did not take: nothing proved them.")
	descMesh         = desc("mesh_members", "Other gateways of the site: alive, by their gossip or a connection with them, and listed, by the newest signed list.", "as")
	descMeshKey      = desc("mesh_key_generation", "Generation of the site key that the gateways of the site gossip under. Absent before one was told.")
	descMeshDropped  = desc("mesh_dropped_total", "Packets and streams of the gossip for which there was no room: gossip is sent again.")
	descMeshRefused  = desc("mesh_refused_total", "Packets and streams from siblings that no member of the mesh sends, or under another site key.")
	descFactsTaken   = desc("sibling_facts_total", "Device entries and gateway lists that came from siblings, signed and newer than this gateway's.")
	descFactsRefused = desc("sibling_facts_refused_total", "What siblings handed out and was not believed: damaged, forged, old or of elsewhere. The log names them.")
	descContent      = desc("content_bytes_total", "Bytes of content: cache, that were asked for and on this gateway's disk; sibling, that came from another gateway of the site; wan, from the core.", "source")
	descBadContent   = desc("content_refused_total", "Contents that a core node or a sibling brought and that did not verify. The log names them.")
	descDownloads    = desc("downloads", "Sessions of agents that fetch content.")
	descCache        = desc("cache_bytes", "Disk that the content takes.")
	descEvicted      = desc("cache_evictions_total", "Contents that made room for others.")
	descDamaged      = desc("cache_damaged_total", "Contents that the disk had damaged, and that were removed.")
	descCacheFailed  = desc("cache_failures_total", "Times that a write, a read or a removal of the cache failed, full disks included. Content passes through then.")
	descWitnessAlarm = desc("witness_alarms_total", "Heads of the core's audit trail that were forged or contradicted another one.")
)

// collector reads a gateway's state when it is asked.
type collector struct{ g *Gateway }

// Describe implements prometheus.Collector.
func (collector) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{
		descSessions, descAttached, descOnline, descHeartbeats, descProbes, descPassed, descRefused, descEnrolled, descNotEnrolled, descNotAdmitted, descTurnedAway, descUplink,
		descUplinkNode, descRelayed, descRelays, descRelaysTotal, descRelayedBytes, descReconnects, descPeriod, descLeast, descWitness, descWitnessAlarm, descMirror, descMirrorWrong,
		descSpool, descSpoolBytes, descSpoolAge, descSpoolHolding, descSpoolFailed, descNeverTaken, descLost,
		descSpansLost, descSpansRefused, descMesh, descMeshKey, descMeshDropped, descMeshRefused, descFactsTaken, descFactsRefused,
		descContent, descBadContent, descDownloads, descCache, descEvicted, descDamaged, descCacheFailed,
	} {
		ch <- d
	}
}

// Collect implements prometheus.Collector.
func (c collector) Collect(ch chan<- prometheus.Metric) {
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	counter := func(d *prometheus.Desc, n uint64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(n), labels...)
	}
	refused := func(d *prometheus.Desc) func(string, uint64) {
		return func(code string, n uint64) {
			if code != wire.CodeNone.String() {
				counter(d, n, code)
			}
		}
	}
	n := c.g.agents.Counters()
	gauge(descSessions, float64(c.g.agents.Sessions()))
	for _, carrier := range link.Carriers() {
		counter(descAttached, n.Attached.Count(carrier), carrier.String())
	}
	gauge(descOnline, float64(c.g.roster.Online()))
	counter(descSpansLost, c.g.roster.SpansLost())
	counter(descSpansRefused, c.g.custody.Doubted())
	counter(descHeartbeats, n.Heartbeats.Load())
	counter(descProbes, n.Probes.Load())
	counter(descPassed, n.Statements.Count(wire.CodeNone))
	n.Statements.Each(refused(descRefused))
	counter(descEnrolled, n.Enrollments.Load())
	n.EnrollmentsRefused.Each(refused(descNotEnrolled))
	n.AgentsRefused.Each(refused(descNotAdmitted))
	turned := make(map[string]uint64)
	for _, ln := range c.g.lns {
		ln.Refused(func(reason string, n uint64) { turned[reason] += n })
	}
	for reason, n := range turned {
		counter(descTurnedAway, n, reason)
	}
	counter(descWitnessAlarm, c.g.witness.Alarms())
	p := c.g.roster.Pace()
	gauge(descLeast, p.Own.Seconds(), "gateway")
	gauge(descLeast, p.Core.Seconds(), "core")
	gauge(descWitness, float64(c.g.witness.Seq()))
	m := c.g.mirror.Status()
	gauge(descMirror, float64(m.Devices), "own")
	gauge(descMirror, float64(m.Guests), "other")
	counter(descMirrorWrong, m.Refused)
	c.custody(gauge, counter)
	c.mesh(gauge, counter)
	c.content(gauge, counter)
	c.uplink(gauge, counter)
}

// uplink tells of the way to the core, and of those that siblings have through this gateway.
func (c collector) uplink(gauge func(*prometheus.Desc, float64, ...string), counter func(*prometheus.Desc, uint64, ...string)) {
	r := c.g.relay.Status()
	gauge(descRelays, float64(r.Open))
	counter(descRelaysTotal, r.Carried)
	counter(descRelayedBytes, r.Bytes)
	s := c.g.uplink.Status()
	counter(descReconnects, max(s.Sessions, 1)-1)
	relayed := 0.0
	if s.Relay != "" {
		relayed = 1
	}
	gauge(descRelayed, relayed)
	if !s.Connected {
		gauge(descUplink, 0)
		return
	}
	gauge(descUplink, 1)
	gauge(descUplinkNode, 1, s.Node, strings.ToValidUTF8(s.Address, "?"), s.Carrier.String()) // an operator may have given any bytes
	gauge(descPeriod, s.Period.Seconds())
}

// mesh tells of the site's other gateways.
func (c collector) mesh(gauge func(*prometheus.Desc, float64, ...string), counter func(*prometheus.Desc, uint64, ...string)) {
	s := c.g.mesh.Status()
	gauge(descMesh, float64(s.Alive), "alive")
	gauge(descMesh, float64(s.Listed), "listed")
	if s.Keyed {
		gauge(descMeshKey, float64(s.Generation))
	}
	counter(descMeshDropped, s.Dropped)
	counter(descMeshRefused, s.Sieved)
	counter(descFactsTaken, s.Taken)
	counter(descFactsRefused, s.Refused)
}

// custody tells what waits for the core.
func (c collector) custody(gauge func(*prometheus.Desc, float64, ...string), counter func(*prometheus.Desc, uint64, ...string)) {
	s := c.g.spool.Status()
	gauge(descSpool, float64(s.Records))
	gauge(descSpoolBytes, float64(s.Bytes))
	age := 0.0
	if s.OldestMS != 0 {
		age = max(0, c.g.Wall().Sub(time.UnixMilli(s.OldestMS)).Seconds())
	}
	gauge(descSpoolAge, age)
	holding := 0.0
	if s.Holding {
		holding = 1
	}
	gauge(descSpoolHolding, holding)
	counter(descSpoolFailed, s.Failures)
	counter(descNeverTaken, c.g.custody.Refused())
	counter(descLost, c.g.custody.Lost())
}

// content tells what devices fetch.
func (c collector) content(gauge func(*prometheus.Desc, float64, ...string), counter func(*prometheus.Desc, uint64, ...string)) {
	s, k := c.g.Content(), c.g.cache.Status()
	counter(descContent, s.Cached, "cache")
	counter(descContent, s.Sibling, "sibling")
	counter(descContent, s.WAN, "wan")
	counter(descBadContent, s.Refused)
	gauge(descDownloads, float64(c.g.agents.Downloads()))
	gauge(descCache, float64(k.Bytes))
	counter(descEvicted, k.Evicted)
	counter(descDamaged, k.Damaged)
	counter(descCacheFailed, k.Failed)
}
