"""What a backend must offer: `Backend`, its config, its report card, and how its folder is found."""
