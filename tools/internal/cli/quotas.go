package cli

import (
	"context"
	"fmt"
	"io"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	jobv1 "github.com/ultrathink-pilot/trainyard/proto/gen/go/trainyard/job/v1"
)

func (a *app) quotaCommand() *cobra.Command {
	list := &cobra.Command{
		Use: "list", Short: "List tenants with their quotas and usage", Args: arguments(cobra.NoArgs),
		RunE: a.with(func(ctx context.Context, s *session, _ []string) error {
			answer, err := s.Quotas.ListQuotas(ctx, &jobv1.ListQuotasRequest{})
			if err != nil {
				return err
			}
			return a.show(answer, func(w io.Writer) error {
				t := quotaTable()
				for _, x := range answer.GetTenants() {
					addTenant(t, x.GetQuota(), x.GetUsage())
				}
				return t.write(w)
			})
		}),
	}
	show := &cobra.Command{
		Use: "show TENANT", Short: "Show a tenant's quota and usage", Args: arguments(cobra.ExactArgs(1)),
		RunE: a.with(func(ctx context.Context, s *session, args []string) error {
			answer, err := s.Quotas.GetQuota(ctx, &jobv1.GetQuotaRequest{Tenant: args[0]})
			if err != nil {
				return err
			}
			return a.show(answer, func(w io.Writer) error {
				t := quotaTable()
				addTenant(t, answer.GetQuota(), answer.GetUsage())
				return t.write(w)
			})
		}),
	}
	remove := &cobra.Command{
		Use: "delete TENANT", Short: "Remove a tenant's limits", Args: arguments(cobra.ExactArgs(1)),
		RunE: a.with(func(ctx context.Context, s *session, args []string) error {
			answer, err := s.Quotas.DeleteQuota(ctx, &jobv1.DeleteQuotaRequest{RequestId: newRequestID(), Tenant: args[0]})
			if err != nil {
				return err
			}
			return a.show(answer, func(w io.Writer) error {
				_, err := fmt.Fprintf(w, "tenant %s has no limits\n", args[0])
				return err
			})
		}),
	}
	return group("quota", "What tenants may use", list, show, a.quotaSetCommand(), remove)
}

func (a *app) quotaSetCommand() *cobra.Command {
	var cohort string
	var weight float64
	var most uint32
	var devices []string
	cmd := &cobra.Command{
		Use: "set TENANT", Short: "Replace a tenant's quota", Args: arguments(cobra.ExactArgs(1)),
		Example: "  trainyard quota set desk --max-jobs 500 --weight 2 --cohort research --devices 4+2\n  trainyard quota set desk --devices H100=2 --devices A100=4+4 --devices 8",
		RunE: a.with(func(ctx context.Context, s *session, args []string) error {
			q := &jobv1.Quota{Tenant: args[0], Cohort: cohort, Weight: weight, MaxJobs: most}
			for _, text := range devices {
				d, err := deviceQuota(text)
				if err != nil {
					return usageError{err}
				}
				q.Devices = append(q.Devices, d)
			}
			answer, err := s.Quotas.SetQuota(ctx, &jobv1.SetQuotaRequest{RequestId: newRequestID(), Quota: q})
			if err != nil {
				return err
			}
			return a.show(answer, func(w io.Writer) error {
				t := quotaTable()
				addTenant(t, answer.GetQuota(), answer.GetUsage())
				return t.write(w)
			})
		}),
	}
	cmd.Flags().StringVar(&cohort, "cohort", "", "tenants of one cohort lend each other what is idle")
	cmd.Flags().Float64Var(&weight, "weight", 0, "fair share against others; 0 means 1")
	cmd.Flags().Uint32Var(&most, "max-jobs", 0, "most jobs that are not final; 0 means no limit")
	cmd.Flags().StringArrayVar(&devices, "devices", nil, "own devices, as N, or N+M with at most M borrowed from the cohort; KIND=N for those of one kind, counted apart; may be repeated")
	return cmd
}

// deviceQuota reads "4", "4+2" or "H100=4+2".
func deviceQuota(text string) (*jobv1.DeviceQuota, error) {
	d := &jobv1.DeviceQuota{}
	amount := text
	if at := strings.LastIndex(text, "="); at >= 0 {
		if d.Kind, amount = text[:at], text[at+1:]; d.Kind == "" {
			return nil, fmt.Errorf("--devices %q names no kind before the =", text)
		}
	}
	own, borrow, bounded := strings.Cut(amount, "+")
	var err error
	if d.Nominal, err = strconv.ParseFloat(own, 64); err == nil && bounded {
		var most float64
		most, err = strconv.ParseFloat(borrow, 64)
		d.BorrowLimit = &most
	}
	if err != nil {
		return nil, fmt.Errorf("--devices %q is not of the form N, N+M or KIND=N+M", text)
	}
	return d, nil
}

func quotaTable() *table {
	return newTable("TENANT", "COHORT", "WEIGHT", "QUEUED", "RUNNING", "UNFINISHED", "MOST", "DEVICES IN USE", "OWN").numbers(2, 3, 4, 5, 6)
}

func addTenant(t *table, q *jobv1.Quota, u *jobv1.TenantUsage) {
	most, weight := "any", "1"
	if q.GetMaxJobs() > 0 {
		most = fmt.Sprint(q.GetMaxJobs())
	}
	if q.GetWeight() > 0 {
		weight = strconv.FormatFloat(q.GetWeight(), 'g', -1, 64)
	}
	var used, own []string
	for _, d := range u.GetDevices() {
		text := fmt.Sprintf("%s %.3g", d.GetKind(), d.GetUsed())
		if d.GetBorrowed() > 0 {
			text += fmt.Sprintf(" (%.3g borrowed)", d.GetBorrowed())
		}
		used = append(used, text)
	}
	for _, d := range q.GetDevices() {
		text := strings.TrimSpace(fmt.Sprintf("%s %g", d.GetKind(), d.GetNominal()))
		if d.BorrowLimit != nil {
			text += fmt.Sprintf("+%g", d.GetBorrowLimit())
		}
		own = append(own, text)
	}
	t.add(u.GetTenant(), orDash(q.GetCohort()), weight, fmt.Sprint(u.GetQueued()), fmt.Sprint(u.GetRunning()), fmt.Sprint(u.GetUnfinished()), most,
		orDash(strings.Join(used, ", ")), orDash(strings.Join(own, ", ")))
}
