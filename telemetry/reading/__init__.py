"""Reading the books: listings, figures, explanations, exports."""
