"""What people look at: tables, figures, the explorer and the pages. Tables in, figure or text out."""
