"""What several test files share: the virtual clock and small fakes; no tests here."""
