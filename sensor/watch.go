package sensor

import (
	"context"
	"log/slog"
	"time"

	eventsapi "github.com/containerd/containerd/api/services/events/v1"
	"google.golang.org/protobuf/encoding/protowire"
)

// watchCreated asks about containers as containerd creates them, before they
// start: one that lives for milliseconds and is removed at once can be named
// when its event arrives. Without the stream, containers are asked about when
// something runs in them.
func (a *attributor) watchCreated(ctx context.Context, log *slog.Logger) error {
	for _, r := range a.runtimes {
		if c, ok := r.(*containerd); ok {
			go func() {
				for pause := time.Second; ctx.Err() == nil; pause = min(2*pause, time.Minute) {
					err := a.followCreated(ctx, c)
					if ctx.Err() != nil {
						return
					}
					log.Debug("containerd's events are not followed", "address", c.address, "error", err)
					select {
					case <-ctx.Done():
					case <-time.After(pause):
					}
				}
			}()
		}
	}
	<-ctx.Done()
	return nil
}

func (a *attributor) followCreated(ctx context.Context, c *containerd) error {
	conn, err := c.connect()
	if err != nil {
		return err
	}
	stream, err := eventsapi.NewEventsClient(conn).Subscribe(ctx, &eventsapi.SubscribeRequest{Filters: []string{`topic=="/containers/create"`}})
	if err != nil {
		return err
	}
	for {
		e, err := stream.Recv()
		if err != nil {
			return err
		}
		if id := firstString(e.GetEvent().GetValue()); id != "" {
			a.prefetch(ctx, c, e.GetNamespace(), id)
		}
	}
}

// firstString is field 1 of a message: the id, in ContainerCreate.
func firstString(message []byte) string {
	number, kind, n := protowire.ConsumeTag(message)
	if n < 0 || number != 1 || kind != protowire.BytesType {
		return ""
	}
	s, n := protowire.ConsumeString(message[n:])
	if n < 0 {
		return ""
	}
	return s
}

// prefetch keeps what is known of a container that has just been created.
func (a *attributor) prefetch(ctx context.Context, r containerRuntime, namespace, id string) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	name := r.name()
	h, err := r.describe(ctx, "/"+namespace+"/"+id, id)
	for _, other := range a.runtimes { // the CRI knows more, where it knows the container
		if better, ok := other.(*criRuntime); ok && namespace == "k8s.io" {
			if found, e := better.describe(ctx, "", id); e == nil {
				h, err, name = found, nil, better.name()
			}
		}
	}
	if err != nil {
		return
	}
	h.ID, h.Runtime = id, name
	h.bound()
	a.mu.Lock()
	defer a.mu.Unlock()
	if len(a.created) >= maxKnown {
		clear(a.created)
	}
	a.created[id] = h
}
