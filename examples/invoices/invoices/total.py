"""Totals of an invoice."""

from invoices.rates import tax


def line_total(quantity, unit_cents, kind):
    """What one line costs with its tax, in whole cents."""
    net = quantity * unit_cents
    return net + tax(net, kind)


def invoice_total(lines):
    """The sum over (quantity, unit price in cents, kind of goods)."""
    return sum(line_total(quantity, unit_cents, kind) for quantity, unit_cents, kind in lines)
