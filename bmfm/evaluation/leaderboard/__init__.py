"""The leaderboard: submissions made from runs, what can be known of them, and the page that shows them."""
