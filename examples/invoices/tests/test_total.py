import unittest

from invoices.total import invoice_total, line_total


class TotalTest(unittest.TestCase):
    def test_tax_is_added_to_a_line(self):
        self.assertEqual(line_total(2, 1000, "standard"), 2380)

    def test_half_a_cent_is_rounded_up(self):
        # 19 % of 2.50 is 47.5 cents of tax
        self.assertEqual(line_total(1, 250, "standard"), 298)

    def test_an_invoice_is_the_sum_of_its_lines(self):
        self.assertEqual(invoice_total([(1, 250, "standard"), (3, 999, "books")]), 298 + 3147)


if __name__ == "__main__":
    unittest.main()
