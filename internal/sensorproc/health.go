package sensorproc

import (
	"fmt"
	"net/http"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/contraband-dev/contraband/internal/sensororders"
	"github.com/contraband-dev/contraband/sensor"
)

// Limits after which a sensor says that it is not well.
const (
	stalledAfter = time.Minute      // events in the ring buffer, and none is read
	failingAfter = 10 * time.Minute // publishing
)

// health serves the state of a sensor. Healthy is who reads what the kernel reports: a
// restart may help who does not. Ready is who may be relied on: the self-test
// has passed and publishing has not been failing for long.
type health struct {
	sensor    *sensor.Sensor
	publisher *publisher
	orders    *sensororders.Watcher // nil outside a cluster

	mu    sync.Mutex
	read  uint64    // events, when last looked at
	since time.Time // since when no more are; zero: nothing waits
}

func (h *health) mux(withPprof bool) http.Handler {
	registry := prometheus.NewRegistry()
	registry.MustRegister(h, collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(registry, promhttp.HandlerOpts{}))
	mux.HandleFunc("GET /healthz", answer(h.healthy))
	mux.HandleFunc("GET /readyz", answer(h.ready))
	if withPprof {
		addPprof(mux)
	}
	return mux
}

func answer(check func() error) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		if err := check(); err != nil {
			http.Error(w, err.Error(), http.StatusServiceUnavailable)
			return
		}
		fmt.Fprintln(w, "ok")
	}
}

func (h *health) healthy() error {
	st, err := h.sensor.Stats()
	if err != nil {
		return err
	}
	return h.stalled(st.Unread, st.Read, time.Now())
}

// stalled is an error when events wait and none has been read for too long.
func (h *health) stalled(unread, read uint64, now time.Time) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if unread == 0 {
		h.since = time.Time{}
	} else if h.since.IsZero() || read != h.read {
		h.since = now
	}
	h.read = read
	if !h.since.IsZero() && now.Sub(h.since) > stalledAfter {
		return fmt.Errorf("%d events wait in the ring buffer and none has been read for %s", unread, now.Sub(h.since).Round(time.Second))
	}
	return nil
}

func (h *health) ready() error {
	done, wrong := h.sensor.SelfTest()
	switch {
	case !done:
		return fmt.Errorf("the self-test has not ended yet")
	case wrong != "":
		return fmt.Errorf("the self-test failed: %s", wrong)
	}
	if _, _, failing, why := h.publisher.state(); failing > failingAfter {
		return fmt.Errorf("publishing has been failing for %s: %w", failing.Round(time.Second), why)
	}
	return nil
}

var (
	execs      = prometheus.NewDesc("contraband_sensor_execs_total", "Programs that containers ran, by what the kernel side made of them.", []string{"kernel"}, nil)
	candidates = prometheus.NewDesc("contraband_sensor_candidates_total", "What became of the events that reached user space.", []string{"outcome"}, nil)
	missed     = prometheus.NewDesc("contraband_sensor_missed_total", "What the sensor knows to have missed.", []string{"what"}, nil)
	waiting    = prometheus.NewDesc("contraband_sensor_spool_waiting", "Detections on disk that are not yet published.", nil, nil)
	published  = prometheus.NewDesc("contraband_sensor_publishes_total", "Attempts to publish, by result.", []string{"result"}, nil)
	failingFor = prometheus.NewDesc("contraband_sensor_publish_failing_seconds", "For how long publishing has been failing.", nil, nil)
	tested     = prometheus.NewDesc("contraband_sensor_selftest", "1: passed. 0: failed, or not yet ended.", nil, nil)
	covered    = prometheus.NewDesc("contraband_sensor_coverage", "1 for each route that is seen here, 0 for the others.", []string{"route"}, nil)
	tiers      = prometheus.NewDesc("contraband_sensor_tier", "1 for each tier that is loaded.", []string{"tier"}, nil)
	ordered    = prometheus.NewDesc("contraband_sensor_orders_connected", "1 while orders of the cluster are watched for.", nil, nil)
	built      = prometheus.NewDesc("contraband_sensor_build_info", "Always 1.", []string{"version"}, nil)
)

// Describe implements prometheus.Collector.
func (h *health) Describe(out chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{execs, candidates, missed, waiting, published, failingFor, tested, covered, tiers, ordered, built} {
		out <- d
	}
}

// Collect implements prometheus.Collector.
func (h *health) Collect(out chan<- prometheus.Metric) {
	st, err := h.sensor.Stats()
	if err != nil {
		out <- prometheus.NewInvalidMetric(execs, err)
		return
	}
	counter := func(d *prometheus.Desc, n uint64, labels ...string) {
		out <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(n), labels...)
	}
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		out <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	for label, n := range map[string]uint64{"quiet": st.Kernel.Quiet, "sent": st.Kernel.Sent, "repeated": st.Kernel.Repeated, "dropped": st.Kernel.Dropped} {
		counter(execs, n, label)
	}
	for label, n := range map[string]uint64{"image": st.Image, "detected": st.Detected, "allowed": st.Allowed, "self_test": st.SelfTests, "not_container": st.NotContainer} {
		counter(candidates, n, label)
	}
	for label, n := range map[string]uint64{"ring_buffer": st.Kernel.Dropped, "spool_full": st.Overflowed, "hash": st.Unhashed, "container": st.Unattributed,
		"script": st.Unresolved, "fanotify": st.Lost} {
		counter(missed, n, label)
	}
	gauge(waiting, float64(st.Spooled))
	sent, failed, failing, _ := h.publisher.state()
	counter(published, sent, "ok")
	counter(published, failed, "failed")
	gauge(failingFor, failing.Seconds())
	done, wrong := h.sensor.SelfTest()
	gauge(tested, number(done && wrong == ""))
	c := h.sensor.Coverage()
	for _, r := range sensor.AllRoutes {
		gauge(covered, number(c.Routes()[r] != ""), string(r))
	}
	for name, on := range map[string]bool{"core": true, "lsm": c.LSM, "ima": c.IMA, "fanotify": c.Fanotify} {
		gauge(tiers, number(on), name)
	}
	if h.orders != nil {
		gauge(ordered, number(h.orders.Connected()))
	}
	gauge(built, 1, version())
}

func number(b bool) float64 {
	if b {
		return 1
	}
	return 0
}
